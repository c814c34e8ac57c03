#pragma once
// The BPE model of tokenizer.json: a vocabulary and ranked merges. A word becomes its characters (or, with
// byte_fallback, the bytes of a character that the vocabulary lacks), then the pair of lowest rank, leftmost
// first, is joined until none is left. Short words are searched pair by pair, long ones with a heap over a
// linked list: n log n, whatever the text. Thread: const methods from any thread. Errors: kInvalid,
// kUnsupported, naming where and key.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/io/json.h"
#include "common/io/keys.h"

namespace coppice {

class WordCache;

// Pairs of ids to (rank, id of the joined token): open addressing, so that a look-up touches one or two cache
// lines.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  void reserve(size_t merges);  // before set
  void set(int32_t left, int32_t right, Merge merge);
  const Merge* find(int32_t left, int32_t right) const;

 private:
  struct Slot {
    uint64_t pair;
    Merge merge;
  };
  size_t place(uint64_t pair) const;
  std::vector<Slot> slots_;
  int shift_ = 0;
};

class Bpe {
 public:
  Bpe(const Json& model, const std::string& where);
  ~Bpe();
  Bpe(const Bpe&) = delete;
  Bpe& operator=(const Bpe&) = delete;

  // Appends the ids of one word.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;
  std::optional<int32_t> id_of(std::string_view token) const;
  const std::string* token_of(int32_t id) const;  // null: no such id
  int64_t size() const { return int64_t(ids_.size()); }
  int32_t largest_id() const { return largest_id_; }  // -1: empty

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  void read_vocabulary(const Json& vocabulary, const std::string& where);
  void read_merges(const Json& merges, const std::string& where);
  void add_merge(std::string_view left, std::string_view right, uint32_t rank, const std::string& where);
  void fill_tables();
  std::vector<int32_t> symbols(std::string_view word) const;
  int32_t id_of_char(std::string_view character) const;  // -1: none
  void join_short(std::vector<int32_t>& symbols) const;
  void join_long(std::vector<int32_t>& symbols) const;

  std::string where_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<int32_t, const std::string*> tokens_;
  int32_t largest_id_ = -1;
  MergeTable merges_;
  std::vector<int32_t> chars_;  // ids of the characters below U+0800; -1: none
  std::vector<int32_t> bytes_;  // ids of <0x00> to <0xFF>; -1: none
  std::optional<std::string> unk_token_;
  bool fuse_unk_ = false, byte_fallback_ = false, ignore_merges_ = false;
  std::unique_ptr<WordCache> cache_;
};

}  // namespace coppice
