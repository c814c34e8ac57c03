#pragma once
// Words that were encoded before, with their ids. Text repeats its words, and looking one up costs a fraction
// of joining it anew. A fixed number of words: when a part is full it takes no more, as the vocabulary of a
// text is learnt early. Parts have a lock each, so that threads seldom meet. Thread: any.

#include <array>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace coppice {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 48;

  // Appends the word's ids, if they are known.
  bool find(std::string_view word, std::vector<int32_t>& ids) const {
    const Part& part = parts_[Hash()(word) % kParts];
    const std::lock_guard lock(part.mutex);
    const auto found = part.words.find(word);
    if (found == part.words.end()) return false;
    ids.insert(ids.end(), found->second.begin(), found->second.end());
    return true;
  }

  void add(std::string_view word, const std::vector<int32_t>& ids) {
    Part& part = parts_[Hash()(word) % kParts];
    const std::lock_guard lock(part.mutex);
    if (part.words.size() < kWordsPerPart) part.words.emplace(std::string(word), ids);
  }

 private:
  static constexpr size_t kParts = 61, kWordsPerPart = 1024;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct alignas(64) Part {
    mutable std::mutex mutex;
    std::unordered_map<std::string, std::vector<int32_t>, Hash, std::equal_to<>> words;
  };
  std::array<Part, kParts> parts_;
};

}  // namespace coppice
