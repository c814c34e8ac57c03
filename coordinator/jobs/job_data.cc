#include "coordinator/jobs/job_data.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/base/random.h"

namespace coppice {
namespace {

// How many of n rows are held out; as many as HF datasets' train_test_split takes for the same share or
// number.
size_t held_out(double split, size_t rows, const std::string& path) {
  const double wanted = split < 1 ? std::ceil(split * double(rows)) : split;
  if (wanted >= double(rows)) {
    throw invalid("{}: data.eval_split holds out {} of {} rows; at least one must be left to train on", path,
                  wanted, rows);
  }
  return size_t(wanted);
}

// Rows drawn by the seed are for evaluation, the others for training; both keep the file's order.
std::vector<Dataset> split(Dataset all, const JobSpec& spec) {
  std::vector<Example>& rows = all.examples;
  const size_t held = held_out(spec.data.eval_split, rows.size(), spec.data.train);
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), size_t(0));
  Random random(stream_key(spec.train.seed, Purpose::kSplit, {}));
  std::vector<bool> out(rows.size(), false);
  for (size_t i = 0; i < held; ++i) {
    std::swap(order[i], order[i + random.below(rows.size() - i)]);
    out[order[i]] = true;
  }
  Dataset eval;
  std::vector<Example> kept;
  kept.reserve(rows.size() - held);
  for (size_t i = 0; i < rows.size(); ++i) (out[i] ? eval.examples : kept).push_back(std::move(rows[i]));
  rows = std::move(kept);
  all.count();
  eval.count();
  std::vector<Dataset> parts;
  parts.push_back(std::move(all));
  parts.push_back(std::move(eval));
  return parts;
}

}  // namespace

JobData read_job_data(const JobSpec& spec, DatasetCache& cache, const Tokenizer* tokenizer,
                      int64_t vocabulary, bool virtual_rows, int64_t most_bytes) {
  const DataArguments& data = spec.data;
  if (!data.eval && data.eval_split > 0) {
    const DatasetCache::Division division = {
        fmt::format("{} held out by seed {}", data.eval_split, spec.train.seed),
        [&](Dataset all) { return split(std::move(all), spec); }};
    const DatasetCache::Parts parts =
        cache.read_parts(division, data.train, data, tokenizer, vocabulary, virtual_rows, most_bytes);
    return {parts[0], parts[1]};
  }
  JobData read;
  read.train = cache.read(data.train, data, tokenizer, vocabulary, virtual_rows, most_bytes);
  if (data.eval) read.eval = cache.read(*data.eval, data, tokenizer, vocabulary, virtual_rows, most_bytes);
  return read;
}

}  // namespace coppice
