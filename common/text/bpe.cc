#include "common/text/bpe.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <queue>

#include "common/text/component.h"
#include "common/text/unicode.h"
#include "common/text/word_cache.h"

namespace coppice {
namespace {

constexpr uint64_t kNoPair = ~uint64_t(0);  // no two ids make it: they are not negative
constexpr size_t kShortSymbols = 32;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
constexpr size_t kDirectChars = 0x800;

uint64_t pair_of(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}

}  // namespace

void MergeTable::reserve(size_t merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(16, merges * 2));
  slots_.assign(slots, {kNoPair, {}});
  shift_ = 64 - std::countr_zero(slots);
}

size_t MergeTable::place(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t at = (pair * 0x9e3779b97f4a7c15u) >> shift_;
  while (slots_[at].pair != pair && slots_[at].pair != kNoPair) at = (at + 1) & mask;
  return at;
}

void MergeTable::set(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair = pair_of(left, right);
  slots_[place(pair)] = {pair, merge};
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  const Slot& slot = slots_[place(pair)];
  return slot.pair == pair ? &slot.merge : nullptr;
}

Bpe::Bpe(const Json& model, const std::string& where) : where_(where), cache_(std::make_unique<WordCache>()) {
  if (!model.is_object()) throw invalid("{} is {}; an object is accepted", where, shown(model));
  // The two large ones are read in place, the rest through Keys.
  const Json* vocabulary = nullptr;
  const Json* merges = nullptr;
  Json rest = Json::object();
  for (const auto& [key, value] : model.items()) {
    if (key == "vocab") {
      vocabulary = &value;
    } else if (key == "merges") {
      merges = &value;
    } else {
      rest[key] = value;
    }
  }
  Keys keys(std::move(rest), where);
  if (const std::string type = keys.text("type", "BPE"); type != "BPE") throw refused_type(keys, type, "BPE");
  keys.neutral("dropout", 0.0);
  keys.neutral("continuing_subword_prefix", "");
  keys.neutral("end_of_word_suffix", "");
  unk_token_ = keys.optional_text("unk_token");
  fuse_unk_ = keys.boolean("fuse_unk", false);
  byte_fallback_ = keys.boolean("byte_fallback", false);
  ignore_merges_ = keys.boolean("ignore_merges", false);
  keys.finish();
  if (vocabulary == nullptr) throw invalid("{}.vocab is missing", where);
  if (merges == nullptr) throw invalid("{}.merges is missing", where);
  read_vocabulary(*vocabulary, where + ".vocab");
  read_merges(*merges, where + ".merges");
  fill_tables();
}

Bpe::~Bpe() = default;

void Bpe::read_vocabulary(const Json& vocabulary, const std::string& where) {
  if (!vocabulary.is_object())
    throw invalid("{} is {}; an object of tokens and ids is accepted", where, shown(vocabulary));
  ids_.reserve(vocabulary.size());
  tokens_.reserve(vocabulary.size());
  for (const auto& [token, value] : vocabulary.items()) {
    const bool whole = value.is_number_integer() && value >= 0 && value < std::numeric_limits<int32_t>::max();
    if (!whole) {
      throw invalid("{}: the id of {} is {}; a whole number below 2147483647 is accepted", where,
                    shown(std::string_view(token)), shown(value));
    }
    const auto id = value.get<int32_t>();
    const auto added = ids_.emplace(token, id).first;
    if (const auto [other, is_new] = tokens_.emplace(id, &added->first); !is_new) {
      throw invalid("{}: {} and {} have the same id {}", where, shown(std::string_view(*other->second)),
                    shown(std::string_view(token)), id);
    }
    largest_id_ = std::max(largest_id_, id);
  }
}

// Either a list of "left right", or a list of [left, right].
void Bpe::read_merges(const Json& merges, const std::string& where) {
  if (!merges.is_array()) throw invalid("{} is {}; a list is accepted", where, shown(merges));
  merges_.reserve(merges.size());
  uint32_t rank = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const Json& merge = merges[i];
    if (merge.is_string() && merges[0].is_string()) {
      const std::string_view text = merge.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
        add_merge(text.substr(0, space), text.substr(space + 1), rank++, where);
        continue;
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string() &&
               merges[0].is_array()) {
      add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank++,
                where);
      continue;
    }
    throw invalid("{}[{}] is {}; \"left right\" in all places or [left, right] in all places is accepted",
                  where, i, shown(merge));
  }
}

void Bpe::add_merge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where) {
  const std::string joined = std::string(left) + std::string(right);
  for (const std::string_view token : {left, right, std::string_view(joined)}) {
    if (!ids_.contains(token)) {
      throw invalid("{}: {} of merge {} is not in the vocabulary", where, shown(token), rank);
    }
  }
  merges_.set(*id_of(left), *id_of(right), {rank, *id_of(joined)});
}

void Bpe::fill_tables() {
  chars_.assign(kDirectChars, -1);
  for (size_t c = 0; c < kDirectChars; ++c) {
    std::string text;
    append_char(text, char32_t(c));
    chars_[c] = id_of(text).value_or(-1);
  }
  bytes_.assign(256, -1);
  for (size_t byte = 0; byte < 256; ++byte)
    bytes_[byte] = id_of(fmt::format("<0x{:02X}>", byte)).value_or(-1);
}

std::optional<int32_t> Bpe::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Bpe::token_of(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : found->second;
}

int32_t Bpe::id_of_char(std::string_view character) const {
  if (character.size() <= 2) {
    size_t at = 0;
    return chars_[next_char(character, at)];
  }
  return id_of(character).value_or(-1);
}

std::vector<int32_t> Bpe::symbols(std::string_view word) const {
  std::vector<int32_t> result;
  result.reserve(word.size());
  // A character that nothing stands for waits here: with fuse_unk a row of them gives one token. Bytes of a
  // fallback overtake it, as they do in the reference.
  std::optional<int32_t> unknown;
  for (size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, char_bytes(word[at]));
    at += character.size();
    if (const int32_t id = id_of_char(character); id >= 0) {
      if (unknown) result.push_back(*unknown);
      unknown.reset();
      result.push_back(id);
      continue;
    }
    const auto byte_id = [this](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
    if (byte_fallback_ &&
        std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte) >= 0; })) {
      for (const char byte : character) result.push_back(byte_id(byte));
      continue;
    }
    if (!unk_token_) continue;
    if (unknown && fuse_unk_) continue;
    if (unknown) result.push_back(*unknown);
    unknown = id_of(*unk_token_);
    if (!unknown)
      throw invalid("{}: unk_token {} is not in the vocabulary", where_,
                    shown(std::string_view(*unk_token_)));
  }
  if (unknown) result.push_back(*unknown);
  return result;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    if (const auto id = id_of(word)) {
      ids.push_back(*id);
      return;
    }
  }
  const bool cached = word.size() <= WordCache::kMaxWordBytes;
  if (cached && cache_->find(word, ids)) return;
  std::vector<int32_t> joined = symbols(word);
  if (joined.size() <= kShortSymbols) {
    join_short(joined);
  } else {
    join_long(joined);
  }
  ids.insert(ids.end(), joined.begin(), joined.end());
  if (cached) cache_->add(word, joined);
}

void Bpe::join_short(std::vector<int32_t>& symbols) const {
  MergeTable::Merge merges[kShortSymbols];  // of symbol i with the one behind it
  size_t count = symbols.size();
  const auto look_up = [&](size_t i) {
    const auto* merge = i + 1 < count ? merges_.find(symbols[i], symbols[i + 1]) : nullptr;
    merges[i] = merge ? *merge : MergeTable::Merge{kNoRank, -1};
  };
  for (size_t i = 0; i < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoRank) break;
    symbols[best] = merges[best].id;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i] = merges[i + 1];
    }
    --count;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  symbols.resize(count);
}

void Bpe::join_long(std::vector<int32_t>& symbols) const {
  struct Candidate {
    uint32_t rank;
    uint32_t left;
    int32_t id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const auto count = uint32_t(symbols.size());
  const uint32_t none = count;
  std::vector<uint32_t> next(count), previous(count);
  for (uint32_t i = 0; i < count; ++i) next[i] = i + 1, previous[i] = i > 0 ? i - 1 : none;

  std::vector<Candidate> candidates;
  candidates.reserve(count);
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (const auto* merge = merges_.find(symbols[i], symbols[i + 1]))
      candidates.push_back({merge->rank, i, merge->id});
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(candidates));
  const auto push = [&](uint32_t left) {
    if (const auto* merge = merges_.find(symbols[left], symbols[next[left]]))
      queue.push({merge->rank, left, merge->id});
  };
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    // What has changed since it was queued is found by asking again: a joined pair is longer than what it was
    // joined from, so it cannot give the same token.
    if (symbols[best.left] < 0 || next[best.left] == none) continue;
    const uint32_t right = next[best.left];
    const auto* merge = merges_.find(symbols[best.left], symbols[right]);
    if (merge == nullptr || merge->id != best.id) continue;
    symbols[best.left] = best.id;
    symbols[right] = -1;
    next[best.left] = next[right];
    if (next[right] != none) previous[next[right]] = best.left;
    if (previous[best.left] != none) push(previous[best.left]);
    if (next[best.left] != none) push(best.left);
  }
  std::erase(symbols, -1);
}

}  // namespace coppice
