#pragma once
// Tokens that are found in the text as they stand, before anything else looks at it: control tokens and what
// was added to a finished vocabulary. They are matched leftmost, then longest: those with normalized = false
// in the raw text, the others (their own text normalised) in the normalised text between. Thread: const
// methods from any thread. Errors: kInvalid.

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/io/keys.h"
#include "common/text/bpe.h"
#include "common/text/normalizer.h"

namespace coppice {

struct AddedToken {
  std::string content;
  bool single_word = false;  // not where a word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and behind it
  bool normalized = true;
  bool special = false;
  bool operator==(const AddedToken&) const = default;
};

// The keys of a token's object; `id` is the caller's.
AddedToken read_added_token(Keys& keys);

// Texts and their ids.
class TokenTrie {
 public:
  TokenTrie() { first_.fill(0); }
  bool add(std::string_view text, int32_t id);  // false where the text is there already
  // The first text found at or behind `at`, of those that begin there the longest.
  struct Match {
    size_t begin, end;
    int32_t id;
  };
  std::optional<Match> find(std::string_view text, size_t at) const;

 private:
  struct Node {
    std::vector<std::pair<char, uint32_t>> next;
    int32_t id = -1;
  };
  std::array<uint32_t, 256> first_;  // node of a first byte; 0: none
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

class AddedTokens {
 public:
  // Takes the tokens in order, as the `tokenizers` package adds them: one that the vocabulary knows keeps its
  // id, others get the ids behind it; a token that is there already is replaced. Returns the ids (-1 for an
  // empty content, which is passed over).
  std::vector<int32_t> add(const std::vector<AddedToken>& tokens, const Bpe& model,
                           const Normalizer* normalizer);
  // To be called once all are added. where: named in errors.
  void finish(const std::string& where);

  const AddedToken* find_content(std::string_view content) const;
  std::optional<int32_t> id_of(std::string_view content) const;
  // The token as the decoder is to see it; null where id is none of these.
  const std::string* text_of(int32_t id) const;
  bool is_special(std::string_view text) const { return special_.contains(text); }
  int32_t largest_id() const { return tokens_.empty() ? -1 : tokens_.rbegin()->first; }
  // Special tokens in the text are no more than their characters.
  void split_special() { split_special_ = true; }

  struct Part {
    size_t begin, end;
    int32_t id;  // -1: text
  };
  // Cuts text; normalized: which of the two kinds of tokens is looked for.
  void cut(std::string_view text, bool normalized, std::vector<Part>& parts) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Entry {
    AddedToken token;
    std::string text;  // content, normalised where the token is
  };
  std::map<int32_t, Entry> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_set<std::string, Hash, std::equal_to<>> special_;
  TokenTrie raw_, normalized_;
  bool split_special_ = false;
};

}  // namespace coppice
