#include "coordinator/jobs/dataset.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "common/base/error.h"
#include "common/io/jsonl.h"
#include "coordinator/jobs/rows.h"

namespace coppice {
namespace {

// A 64-bit hash over words, in order: each is mixed in by the finaliser of SplitMix64 (Steele, Lea, Flood
// 2014).
class Fingerprint {
 public:
  void add(uint64_t word) {
    uint64_t z = value_ + 0x9e3779b97f4a7c15u + word;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    value_ = z ^ (z >> 31);
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

}  // namespace

int64_t Example::bytes() const {
  constexpr int64_t kBlock = 16;  // of an allocation, beside what was asked for
  return int64_t(sizeof(Example)) + 2 * kBlock +
         int64_t((tokens.capacity() + labels.capacity()) * sizeof(int32_t));
}

int64_t Example::targets(bool virtual_rows) const {
  // The first token is predicted by the row before it, and there is one only if virtual rows go before.
  const size_t first = virtual_rows ? 0 : 1;
  if (labels.size() <= first) return 0;
  return int64_t(labels.size() - first) - std::count(labels.begin() + first, labels.end(), kIgnored);
}

void Dataset::count() {
  Fingerprint of_all;
  tokens = 0;
  for (const Example& example : examples) {
    tokens += int64_t(example.tokens.size());
    of_all.add(example.tokens.size());
    for (size_t i = 0; i < example.tokens.size(); ++i) {
      of_all.add(uint64_t(uint32_t(example.tokens[i])) << 32 | uint32_t(example.labels[i]));
    }
  }
  fingerprint = of_all.value();
}

int64_t Dataset::bytes() const {
  // The vector has room for more than it holds.
  int64_t bytes = int64_t((examples.capacity() - examples.size()) * sizeof(Example));
  for (const Example& example : examples) bytes += example.bytes();
  return bytes;
}

Dataset Dataset::without_examples() const {
  Dataset figures;
  figures.tokens = tokens;
  figures.truncated = truncated;
  figures.dropped = dropped;
  figures.fingerprint = fingerprint;
  return figures;
}

Dataset read_dataset(const std::string& path, const DataArguments& data, const Tokenizer* tokenizer,
                     int64_t vocabulary, bool virtual_rows, int64_t most_bytes) {
  // A pipe would be waited for, and could not be read again by a resume.
  std::error_code unreadable;  // said when it is opened
  const auto kind = std::filesystem::status(path, unreadable).type();
  if (kind == std::filesystem::file_type::fifo || kind == std::filesystem::file_type::socket) {
    throw invalid("{}: is a pipe or a socket; a file is accepted", path);
  }
  const RowReader reader(path, data, tokenizer, vocabulary);
  const size_t max_length = size_t(data.length_limit());
  Dataset dataset;
  int64_t bytes = 0;
  read_jsonl(path, [&](const Json& row, int64_t line) {
    Example example = reader.read(row, line);
    const size_t length = example.tokens.size();
    if (example.targets(virtual_rows) == 0) {
      throw invalid("{}:{}: no token of the row is a target", path, line);
    }
    if (length > max_length && data.on_long == OnLong::kError) {
      throw invalid(
          "{}:{}: {} tokens, but data.max_length is {}; a higher one is accepted, or data.on_long truncate "
          "or drop",
          path, line, length, max_length);
    }
    if (length > max_length && data.on_long == OnLong::kDrop) {
      ++dataset.dropped;
      return;
    }
    if (length > max_length) {
      ++dataset.truncated;
      example.tokens.resize(max_length);
      example.labels.resize(max_length);
      if (example.targets(virtual_rows) == 0) {
        throw invalid(
            "{}:{}: {} tokens cut to data.max_length {} leave no target; data.on_long drop leaves such rows "
            "out",
            path, line, length, max_length);
      }
    }
    // Files may be large: no spare room stays with each example.
    example.tokens.shrink_to_fit();
    example.labels.shrink_to_fit();
    bytes += example.bytes();
    if (bytes > most_bytes) {
      throw Error(
          ErrorCode::kExhausted,
          fmt::format("{}: its rows up to line {} take more than {} MiB of memory, which is all that is "
                      "left for the data of a job",
                      path, line, most_bytes >> 20));
    }
    dataset.examples.push_back(std::move(example));
  });
  if (dataset.examples.empty() && dataset.dropped > 0) {
    throw invalid("{}: all {} rows are longer than data.max_length {} and dropped", path, dataset.dropped,
                  max_length);
  }
  if (dataset.examples.empty()) throw invalid("{}: the file has no rows", path);
  dataset.count();
  return dataset;
}

}  // namespace coppice
