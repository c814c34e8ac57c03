#include "common/text/added_tokens.h"

#include <algorithm>

#include "common/text/component.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

// Start of the character before `at`, which is not 0.
size_t char_before(std::string_view text, size_t at) {
  --at;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

bool touches_word(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    size_t before = char_before(text, begin);
    if (is_word(next_char(text, before))) return true;
  }
  return end < text.size() && is_word(next_char(text, end));
}

size_t skip_space_back(std::string_view text, size_t at) {
  while (at > 0) {
    const size_t before = char_before(text, at);
    size_t next = before;
    if (!is_white_space(next_char(text, next))) break;
    at = before;
  }
  return at;
}

size_t skip_space(std::string_view text, size_t at) {
  for (size_t next = at; next < text.size() && is_white_space(next_char(text, next));) at = next;
  return at;
}

}  // namespace

AddedToken read_added_token(Keys& keys) {
  AddedToken token;
  token.content = required_text(keys, "content");
  token.single_word = keys.boolean("single_word", false);
  token.lstrip = keys.boolean("lstrip", false);
  token.rstrip = keys.boolean("rstrip", false);
  token.special = keys.boolean("special", false);
  token.normalized = keys.boolean("normalized", !token.special);
  return token;
}

bool TokenTrie::add(std::string_view text, int32_t id) {
  uint32_t* place = &first_[static_cast<unsigned char>(text[0])];
  for (size_t i = 1;; ++i) {
    if (*place == 0) {
      *place = uint32_t(nodes_.size());
      const uint32_t fresh = *place;
      nodes_.emplace_back();  // may move the node that `place` points into
      place = nullptr;
      if (i == text.size()) {
        nodes_[fresh].id = id;
        return true;
      }
      nodes_[fresh].next.emplace_back(text[i], 0);
      place = &nodes_[fresh].next.back().second;
      continue;
    }
    Node& node = nodes_[*place];
    if (i == text.size()) {
      const bool is_new = node.id < 0;
      if (is_new) node.id = id;
      return is_new;
    }
    auto next =
        std::find_if(node.next.begin(), node.next.end(), [&](const auto& n) { return n.first == text[i]; });
    if (next == node.next.end()) next = node.next.insert(next, {text[i], 0});
    place = &next->second;
  }
}

std::optional<TokenTrie::Match> TokenTrie::find(std::string_view text, size_t at) const {
  for (; at < text.size(); ++at) {
    std::optional<Match> match;
    uint32_t node = first_[static_cast<unsigned char>(text[at])];
    for (size_t end = at + 1; node != 0; ++end) {
      if (nodes_[node].id >= 0) match = {at, end, nodes_[node].id};
      if (end == text.size()) break;
      const auto& next = nodes_[node].next;
      const auto found =
          std::find_if(next.begin(), next.end(), [&](const auto& n) { return n.first == text[end]; });
      node = found == next.end() ? 0 : found->second;
    }
    if (match) return match;
  }
  return std::nullopt;
}

std::vector<int32_t> AddedTokens::add(const std::vector<AddedToken>& tokens, const Bpe& model,
                                      const Normalizer* normalizer) {
  auto next_id = int64_t(model.size());
  if (!tokens_.empty() && (largest_id() >= model.size() || model.size() == 0))
    next_id = int64_t(largest_id()) + 1;
  std::vector<int32_t> ids;
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) {
      ids.push_back(-1);
      continue;
    }
    auto id = id_of(token.content);
    if (!id) id = model.id_of(token.content);
    if (!id) id = int32_t(next_id++);
    ids.push_back(*id);
    Entry entry{token, token.content};
    if (token.normalized && normalizer != nullptr) {
      size_t first = 0;
      normalizer->apply(entry.text, first);
    }
    tokens_[*id] = std::move(entry);
    ids_[token.content] = *id;
    if (token.special) special_.insert(token.content);
  }
  return ids;
}

void AddedTokens::finish(const std::string& where) {
  for (const auto& [id, entry] : tokens_) {
    TokenTrie& trie = entry.token.normalized ? normalized_ : raw_;
    if (!entry.text.empty() && trie.add(entry.text, id)) continue;
    throw invalid("{}: token {} normalises to {}, which is {}", where,
                  shown(std::string_view(entry.token.content)), shown(std::string_view(entry.text)),
                  entry.text.empty() ? "empty" : "another token's text");
  }
}

std::optional<int32_t> AddedTokens::id_of(std::string_view content) const {
  const auto found = ids_.find(content);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const AddedToken* AddedTokens::find_content(std::string_view content) const {
  const auto id = id_of(content);
  return id ? &tokens_.at(*id).token : nullptr;
}

const std::string* AddedTokens::text_of(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.text;
}

void AddedTokens::cut(std::string_view text, bool normalized, std::vector<Part>& parts) const {
  parts.clear();
  const TokenTrie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;
  for (size_t at = 0; const auto match = trie.find(text, at);) {
    // A match that is not taken still uses its text up, and white space that a token takes along is searched
    // all the same: so does the reference, and a token of spaces may then come out twice.
    at = match->end;
    const AddedToken& token = tokens_.at(match->id).token;
    if (split_special_ && special_.contains(token.content)) continue;
    if (token.single_word && touches_word(text, match->begin, match->end)) continue;
    size_t begin = match->begin, end = match->end;
    if (token.lstrip) begin = std::max(skip_space_back(text, begin), done);
    if (token.rstrip) end = skip_space(text, end);
    begin = std::min(begin, end);
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, match->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
}

}  // namespace coppice
