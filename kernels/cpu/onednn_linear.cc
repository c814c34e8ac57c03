#include "kernels/cpu/onednn_linear.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "common/base/check.h"
#include "common/base/error.h"
#include "kernels/cpu/convert.h"
#include "kernels/host_backend.h"

// oneDNN is built on libgomp. Declared here because another compiler's omp.h would speak to another runtime.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int);

namespace coppice {
namespace {

using dnnl::memory;

// Keeps oneDNN on the thread that calls it, for as long as this lives: the pool's threads are not OpenMP's,
// and each has its own setting.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

constexpr size_t kSize = sizeof(uint16_t);  // of a value
constexpr int64_t kTileRows = 128;
constexpr int64_t kFewRows = 4;         // a tile of decoding: what it takes is the reading of the weight
constexpr int64_t kWidestBlock = 1024;  // columns

// One primitive: [tile rows, depth] x [depth, cols], written to rows `stride` apart.
struct Tile {
  dnnl::matmul primitive;
  memory::desc source, weight, target, scratch;
};

struct TileKey {
  int64_t depth, cols, stride;
  bool accumulate = false;
  bool few = false;  // rows
  bool operator<(const TileKey& other) const {
    return std::tie(depth, cols, stride, accumulate, few) <
           std::tie(other.depth, other.cols, other.stride, other.accumulate, other.few);
  }
  int64_t rows() const { return few ? kFewRows : kTileRows; }
};

// A weight packed for products in one direction, [depth, cols] as the product sees it.
struct PackedWeight {
  struct Column {
    int64_t begin = 0, cols = 0;
    Buffer packed;
  };
  int64_t depth = 0, cols = 0;
  std::vector<Column> columns;

  size_t bytes() const {
    size_t sum = 0;
    for (const Column& column : columns) sum += column.packed.bytes();
    return sum;
  }
};

class OnednnWeight final : public FrozenWeight {
 public:
  OnednnWeight(int64_t out, int64_t in, PackedWeight forward)
      : FrozenWeight(out, in, forward.bytes()), forward(std::move(forward)) {}

  void set_backward(PackedWeight packed) {
    backward = std::move(packed);
    bytes_ = forward.bytes() + backward.bytes();
  }

  PackedWeight forward, backward;  // backward: without columns until it is needed
};

// Blocks of equal width, the last one narrower, widths in whole 64 columns as oneDNN packs them.
std::vector<PackedWeight::Column> cut_columns(int64_t cols) {
  const int64_t count = (cols + kWidestBlock - 1) / kWidestBlock;
  const int64_t width = ((cols + count - 1) / count + 63) / 64 * 64;
  std::vector<PackedWeight::Column> columns;
  for (int64_t begin = 0; begin < cols; begin += width) {
    columns.push_back({begin, std::min(width, cols - begin), {}});
  }
  return columns;
}

}  // namespace

struct OnednnLinear::State {
  Backend& backend;
  ThreadPool& pool;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::vector<dnnl::stream> streams;  // one a thread of the pool
  std::map<TileKey, Tile> tiles;

  State(Backend& backend, ThreadPool& pool) : backend(backend), pool(pool) {
    for (int i = 0; i < pool.threads(); ++i) streams.emplace_back(engine);
  }

  // A primitive that accumulates or takes few rows reads the weight as the first one packed it.
  Tile make_tile(const TileKey& key) {
    const OneThread one;
    const int64_t rows = key.rows();
    const memory::desc source({rows, key.depth}, memory::data_type::bf16, memory::dims{key.depth, 1});
    const memory::desc any({key.depth, key.cols}, memory::data_type::bf16, memory::format_tag::any);
    const memory::desc weight =
        key.accumulate || key.few ? tile({key.depth, key.cols, key.stride}).weight : any;
    const memory::desc target({rows, key.cols}, memory::data_type::f32, memory::dims{key.stride, 1});
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (key.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::primitive_desc description({source, weight, target}, attributes, engine);
    return {dnnl::matmul(description), source, description.weights_desc(), target,
            description.scratchpad_desc()};
  }

  const Tile& tile(const TileKey& key) {
    const auto found = tiles.find(key);
    if (found != tiles.end()) return found->second;
    try {
      return tiles.emplace(key, make_tile(key)).first->second;
    } catch (const dnnl::error& e) {
      throw failed("oneDNN has no product [{}, {}] x [{}, {}] in bfloat16: {}", key.rows(), key.depth,
                   key.depth, key.cols, e.what());
    }
  }

  // task(i, worker) on the pool, with oneDNN kept on its thread and its errors turned into ours.
  template <typename Task>
  void for_each(int64_t count, const Task& task) {
    pool.parallel_for(count, [&](int64_t i, int worker) {
      const OneThread one;
      try {
        task(i, worker);
        streams[size_t(worker)].wait();
      } catch (const dnnl::error& e) {
        throw failed("oneDNN: {} (status {})", e.what(), int(e.status));
      }
    });
  }

  void reorder(const memory::desc& from_desc, const void* from, const memory::desc& to_desc, void* to,
               int worker) {
    memory source(from_desc, engine, const_cast<void*>(from)), target(to_desc, engine, to);
    dnnl::reorder(source, target).execute(streams[size_t(worker)], source, target);
  }

  // Packs a [depth, cols] weight from element (k, n) at values[k * strides[0] + n * strides[1]], as
  // read(begin, cols) returns them for a column block.
  template <typename Read>
  PackedWeight pack(int64_t depth, int64_t cols, const memory::dims& strides, const Read& read) {
    PackedWeight weight{depth, cols, cut_columns(cols)};
    for (auto& column : weight.columns) {
      column.packed = backend.allocate(tile({depth, column.cols, cols}).weight.get_size());
    }
    for_each(int64_t(weight.columns.size()), [&](int64_t i, int worker) {
      auto& column = weight.columns[size_t(i)];
      const memory::desc plain({depth, column.cols}, memory::data_type::bf16, strides);
      const Tile& to = tiles.at({depth, column.cols, cols});
      reorder(plain, read(column.begin, column.cols, worker), to.weight, column.packed.data(), worker);
    });
    return weight;
  }

  // dx = dy W reads W [out, in] as it stands.
  PackedWeight pack_backward(const OnednnWeight& weight) {
    const int64_t out = weight.out(), in = weight.in();
    const Buffer plain = backend.allocate(size_t(out * in) * kSize);
    for_each(int64_t(weight.forward.columns.size()), [&](int64_t i, int worker) {
      const auto& column = weight.forward.columns[size_t(i)];
      const Tile& from = tiles.at({in, column.cols, out});
      const memory::desc rows({in, column.cols}, memory::data_type::bf16, memory::dims{1, in});
      reorder(from.weight, column.packed.data(), rows, plain.data() + size_t(column.begin * in) * kSize,
              worker);
    });
    return pack(out, in, {in, 1},
                [&](int64_t begin, int64_t, int) { return plain.data() + size_t(begin) * kSize; });
  }

  void multiply(const PackedWeight& weight, Matrix x, Matrix bias, Matrix y, bool accumulate, bool few);
};

// A task's input tile: rounded, and filled up with zeros.
static void fill_tile(const Matrix& x, int64_t rows, std::byte* tile) {
  round_rows_to_bf16(x, reinterpret_cast<uint16_t*>(tile));
  const size_t row = size_t(x.cols) * kSize;
  std::memset(tile + size_t(x.rows) * row, 0, size_t(rows - x.rows) * row);
}

static void copy_floats(const Matrix& from, const Matrix& to) {
  for (int64_t r = 0; r < from.rows; ++r) {
    std::copy_n(from.as<float>() + r * from.stride, from.cols, to.as<float>() + r * to.stride);
  }
}

void OnednnLinear::State::multiply(const PackedWeight& weight, Matrix x, Matrix bias, Matrix y,
                                   bool accumulate, bool few) {
  CHECK(x.dtype == DType::kF32 && y.dtype == DType::kF32 && x.rows == y.rows);
  CHECK(x.cols == weight.depth && y.cols == weight.cols);
  CHECK(bias.empty() || (bias.rows == 1 && bias.cols == y.cols && bias.dtype == DType::kF32));
  const auto key_of = [&](const PackedWeight::Column& column) {
    return TileKey{weight.depth, column.cols, weight.cols, accumulate, few};
  };
  const int64_t rows = few ? kFewRows : kTileRows, row_tiles = (x.rows + rows - 1) / rows;
  const int64_t column_count = int64_t(weight.columns.size());
  const bool in_place = x.rows % rows == 0 && y.stride == weight.cols;
  size_t scratch_bytes = 0;
  for (const auto& column : weight.columns) {
    const Tile& one = tile(key_of(column));
    scratch_bytes = std::max(scratch_bytes, one.scratch.get_size());
  }
  const size_t input_bytes = size_t(rows * weight.depth) * kSize;
  const size_t output_bytes = in_place ? 0 : size_t(rows * weight.cols) * sizeof(float);
  const size_t a_worker = (scratch_bytes + 63) / 64 * 64 + (input_bytes + 63) / 64 * 64 + output_bytes + 64;
  const Buffer buffer = backend.allocate(a_worker * size_t(pool.threads()));

  const auto run_block = [&](const Matrix& tile_y, const void* input, int64_t row_count, size_t i,
                             std::byte* scratch, std::byte* output, int worker) {
    const auto& column = weight.columns[i];
    const Tile& one = tiles.at(key_of(column));
    const Matrix target = tile_y.column_range(column.begin, column.cols);
    const bool direct = row_count == rows && y.stride == weight.cols;
    const Matrix aside = {output, DType::kF32, row_count, column.cols, weight.cols};
    if (!direct && accumulate) copy_floats(target, aside);
    one.primitive.execute(streams[size_t(worker)],
                          {{DNNL_ARG_SRC, memory(one.source, engine, const_cast<void*>(input))},
                           {DNNL_ARG_WEIGHTS, memory(one.weight, engine, column.packed.data())},
                           {DNNL_ARG_DST, memory(one.target, engine, direct ? target.data : output)},
                           {DNNL_ARG_SCRATCHPAD, memory(one.scratch, engine, scratch)}});
    if (!direct) copy_floats(aside, target);
    if (bias.empty()) return;
    const float* const add = bias.as<float>() + column.begin;
    for (int64_t r = 0; r < row_count; ++r) {
      float* const row = target.as<float>() + r * target.stride;
      for (int64_t c = 0; c < target.cols; ++c) row[c] += add[c];
    }
  };
  // A rounded input tile serves all column blocks of its task; few row tiles are cut further, for the
  // threads.
  const bool whole_width = row_tiles >= 4 * pool.threads();
  for_each(whole_width ? row_tiles : row_tiles * column_count, [&](int64_t task, int worker) {
    std::byte* const scratch = buffer.data() + a_worker * size_t(worker);
    std::byte* const input_scratch = scratch + (scratch_bytes + 63) / 64 * 64;
    std::byte* const output = input_scratch + (input_bytes + 63) / 64 * 64;
    const int64_t begin = task % row_tiles * rows, count = std::min(rows, x.rows - begin);
    fill_tile(x.row_range(begin, count), rows, input_scratch);
    const int64_t first = whole_width ? 0 : task / row_tiles, last = whole_width ? column_count : first + 1;
    for (int64_t i = first; i < last; ++i) {
      run_block(y.row_range(begin, count), input_scratch, count, size_t(i), scratch, output, worker);
    }
  });
}

OnednnLinear::OnednnLinear(Backend& backend, ThreadPool& pool)
    : state_(std::make_unique<State>(backend, pool)) {}

OnednnLinear::~OnednnLinear() = default;

std::unique_ptr<FrozenWeight> OnednnLinear::prepare(const TensorView& weight) {
  CHECK(weight.shape.size() == 2 && weight.shape[0] > 0 && weight.shape[1] > 0);
  CHECK(weight.dtype == DType::kF32 || weight.dtype == DType::kF16 || weight.dtype == DType::kBF16);
  const int64_t out = weight.shape[0], in = weight.shape[1];
  CHECK(weight.bytes.size() == size_t(out * in) * dtype_size(weight.dtype));
  const size_t a_worker = size_t(cut_columns(out).front().cols * in) * kSize;
  const Buffer rows = state_->backend.allocate(a_worker * size_t(state_->pool.threads()));
  PackedWeight packed = state_->pack(in, out, {1, in}, [&](int64_t begin, int64_t count, int worker) {
    std::byte* const to = rows.data() + a_worker * size_t(worker);
    read_bf16(weight, begin * in, count * in, reinterpret_cast<uint16_t*>(to));
    return to;
  });
  return std::make_unique<OnednnWeight>(out, in, std::move(packed));
}

void OnednnLinear::forward(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y) {
  state_->multiply(static_cast<const OnednnWeight&>(weight).forward, x, bias, y, false, false);
}

void OnednnLinear::decode(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y) {
  state_->multiply(static_cast<const OnednnWeight&>(weight).forward, x, bias, y, false, x.rows <= kFewRows);
}

void OnednnLinear::backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate) {
  // prepare() makes every weight, and none of them const: what the product gives does not change by packing
  // it.
  auto& w = const_cast<OnednnWeight&>(static_cast<const OnednnWeight&>(weight));
  if (w.backward.columns.empty()) w.set_backward(state_->pack_backward(w));
  state_->multiply(w.backward, dy, {}, dx, accumulate, false);
}

}  // namespace coppice
