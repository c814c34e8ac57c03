#include "common/text/pre_tokenizer.h"

#include <algorithm>
#include <optional>

#include "common/text/byte_level.h"
#include "common/text/component.h"
#include "common/text/pattern.h"
#include "common/text/unicode.h"

namespace coppice {
namespace {

constexpr std::string_view kTypes = "Split, ByteLevel, Metaspace, Digits, Sequence";
constexpr const char* kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
using Part = Pattern::Part;

// What becomes of the matches: afterwards `match` marks the parts to drop.
void settle(std::vector<Part>& parts, Behavior behavior) {
  std::vector<Part> kept;
  bool previous = false;
  switch (behavior) {
    case Behavior::kRemoved:
      return;
    case Behavior::kIsolated:
      for (Part& part : parts) part.match = false;
      return;
    case Behavior::kContiguous:
      for (const Part& part : parts) {
        if (part.match == previous && !kept.empty()) {
          kept.back().end = part.end;
        } else {
          kept.push_back({part.begin, part.end, false});
        }
        previous = part.match;
      }
      break;
    case Behavior::kMergedWithPrevious:
      for (const Part& part : parts) {
        if (part.match && !previous && !kept.empty()) {
          kept.back().end = part.end;
        } else {
          kept.push_back({part.begin, part.end, false});
        }
        previous = part.match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (part->match && !previous && !kept.empty()) {
          kept.back().begin = part->begin;
        } else {
          kept.push_back({part->begin, part->end, false});
        }
        previous = part->match;
      }
      std::reverse(kept.begin(), kept.end());
      break;
  }
  parts = std::move(kept);
}

// The parts of one piece, as pieces; the empty ones go.
void add_parts(const Pieces::Piece& piece, const std::vector<Part>& parts, std::vector<Pieces::Piece>& list) {
  for (const Part& part : parts) {
    if (part.match || part.begin == part.end) continue;
    const size_t first = piece.first - std::min(piece.first, part.begin);
    list.push_back({piece.begin + part.begin, piece.begin + part.end, first});
  }
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(Pieces& pieces) const override {
    std::vector<Pieces::Piece> list;
    std::vector<Part> parts;
    for (const auto& piece : pieces.list) {
      if (piece.token >= 0) {
        list.push_back(piece);
        continue;
      }
      pattern_.cut(pieces.view(piece), parts);
      if (invert_) {
        for (Part& part : parts) part.match = !part.match;
      }
      settle(parts, behavior_);
      add_parts(piece, parts, list);
    }
    pieces.list = std::move(list);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class Digits : public PreTokenizer {
 public:
  explicit Digits(bool individual) : individual_(individual) {}

  void apply(Pieces& pieces) const override {
    std::vector<Pieces::Piece> list;
    std::vector<Part> parts;
    for (const auto& piece : pieces.list) {
      if (piece.token >= 0) {
        list.push_back(piece);
        continue;
      }
      const std::string_view text = pieces.view(piece);
      parts.clear();
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        const bool digit = is_numeric(next_char(text, at));
        if (parts.empty() || (digit && individual_) || digit != parts.back().match) {
          parts.push_back({begin, at, digit});
        } else {
          parts.back().end = at;
        }
      }
      settle(parts, Behavior::kIsolated);
      add_parts(piece, parts, list);
    }
    pieces.list = std::move(list);
  }

 private:
  bool individual_;
};

// Writes every piece anew, character by character or byte by byte, keeping track of the input's first
// character.
template <typename Begin, typename Write>
void rewrite(Pieces& pieces, Begin&& begin_piece, Write&& write_byte) {
  std::string text;
  text.reserve(pieces.text.size() + pieces.text.size() / 4);
  for (auto& piece : pieces.list) {
    const std::string_view old = pieces.view(piece);
    const size_t begin = text.size();
    if (piece.token >= 0) {
      text += old;
    } else {
      begin_piece(old, piece.first > 0, text);
      size_t first = piece.first > 0 ? text.size() - begin : 0;
      for (size_t i = 0; i < old.size(); ++i) {
        write_byte(old[i], text);
        if (i < piece.first) first = text.size() - begin;
      }
      piece.first = first;
    }
    piece.begin = begin;
    piece.end = text.size();
  }
  pieces.text = std::move(text);
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) words_.emplace(Pattern::from_regex(kGpt2Words, where), Behavior::kIsolated, false);
  }

  void apply(Pieces& pieces) const override {
    if (add_prefix_space_) {
      rewrite(
          pieces,
          [](std::string_view old, bool, std::string& text) {
            if (!old.starts_with(' ')) text += ' ';
          },
          [](char byte, std::string& text) { text += byte; });
    }
    if (words_) words_->apply(pieces);
    rewrite(
        pieces, [](std::string_view, bool, std::string&) {},
        [this](char byte, std::string& text) { text += alphabet_.text_of(byte); });
  }

 private:
  bool add_prefix_space_;
  std::optional<Split> words_;
  ByteAlphabet alphabet_;
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split, const std::string& where)
      : replacement_(std::move(replacement)), prepend_(prepend) {
    if (!split) return;
    words_.emplace(Pattern::from_json(Json{{"String", replacement_}}, where), Behavior::kMergedWithNext,
                   false);
  }

  void apply(Pieces& pieces) const override {
    rewrite(
        pieces,
        [this](std::string_view old, bool at_first, std::string& text) {
          if (old.starts_with(replacement_) || old.starts_with(' ')) return;
          if (prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && at_first)) text += replacement_;
        },
        [this](char byte, std::string& text) {
          if (byte == ' ') {
            text += replacement_;
          } else {
            text += byte;
          }
        });
    if (words_) words_->apply(pieces);
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  std::optional<Split> words_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}
  void apply(Pieces& pieces) const override {
    for (const auto& step : steps_) step->apply(pieces);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

std::unique_ptr<PreTokenizer> read_split(Keys& keys) {
  auto pattern = Pattern::from_json(required(keys, "pattern"), keys.path("pattern"));
  required(keys, "behavior");
  const std::string name = keys.choice(
      "behavior", "", {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"});
  const Behavior behavior = name == "Removed"              ? Behavior::kRemoved
                            : name == "Isolated"           ? Behavior::kIsolated
                            : name == "MergedWithPrevious" ? Behavior::kMergedWithPrevious
                            : name == "MergedWithNext"     ? Behavior::kMergedWithNext
                                                           : Behavior::kContiguous;
  return std::make_unique<Split>(std::move(pattern), behavior, required_boolean(keys, "invert"));
}

// The older form has add_prefix_space instead of prepend_scheme, and a copy of the replacement in str_rep.
std::unique_ptr<PreTokenizer> read_metaspace(Keys& keys) {
  const std::string replacement = required_text(keys, "replacement");
  if (replacement.empty() || char_bytes(replacement[0]) != replacement.size()) {
    throw invalid("{} is {}; one character is accepted", keys.path("replacement"),
                  shown(std::string_view(replacement)));
  }
  const std::string scheme = keys.choice("prepend_scheme", "always", {"always", "first", "never"});
  if (!keys.boolean("add_prefix_space", true) && scheme != "never") {
    throw invalid("{} is false, but prepend_scheme is {}", keys.path("add_prefix_space"), scheme);
  }
  keys.informative("str_rep");
  const auto prepend = scheme == "always"  ? Metaspace::Prepend::kAlways
                       : scheme == "first" ? Metaspace::Prepend::kFirst
                                           : Metaspace::Prepend::kNever;
  return std::make_unique<Metaspace>(replacement, prepend, keys.boolean("split", true),
                                     keys.path("replacement"));
}

}  // namespace

std::unique_ptr<PreTokenizer> PreTokenizer::from_json(const Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  Keys keys(json, where);
  const std::string type = required_text(keys, "type");
  std::unique_ptr<PreTokenizer> made;
  if (type == "Split") {
    made = read_split(keys);
  } else if (type == "ByteLevel") {
    const bool add_prefix_space = required_boolean(keys, "add_prefix_space");
    keys.boolean("trim_offsets", true);  // offsets are not kept here
    made = std::make_unique<ByteLevel>(add_prefix_space, keys.boolean("use_regex", true), where);
  } else if (type == "Metaspace") {
    made = read_metaspace(keys);
  } else if (type == "Digits") {
    made = std::make_unique<Digits>(required_boolean(keys, "individual_digits"));
  } else if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    read_components(keys, "pretokenizers", [&](const Json& item, const std::string& place) {
      if (auto step = from_json(item, place)) steps.push_back(std::move(step));
    });
    made = std::make_unique<Sequence>(std::move(steps));
  } else {
    throw refused_type(keys, type, kTypes);
  }
  keys.finish();
  return made;
}

}  // namespace coppice
