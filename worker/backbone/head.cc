#include "worker/backbone/head.h"

#include <algorithm>
#include <array>

#include "common/base/check.h"

namespace coppice {
namespace {

constexpr int64_t kPieceRows = 64;
constexpr int64_t kChunkRows = 256;

// Targets [first, first + count) of the pack, all of one segment.
struct Piece {
  size_t segment = 0;
  int64_t first = 0, count = 0;
};

// Cuts each segment's targets at multiples of kPieceRows, counted from its first.
std::vector<Piece> cut(const Pack& pack, const PackTargets& targets) {
  std::vector<Piece> pieces;
  const int64_t count = int64_t(targets.rows.size());
  int64_t next = 0;
  for (size_t s = 0; s < pack.segments.size(); ++s) {
    const Segment& segment = pack.segments[s];
    const int64_t first = next;
    while (next < count && targets.rows[size_t(next)] < segment.row + segment.rows) ++next;
    for (int64_t at = first; at < next; at += kPieceRows)
      pieces.push_back({s, at, std::min(kPieceRows, next - at)});
  }
  CHECK(next == count);
  return pieces;
}

Matrix upload(Backend& backend, Buffer& buffer, const void* from, int64_t rows, int64_t cols, DType dtype) {
  buffer = backend.allocate(size_t(rows * cols) * dtype_size(dtype));
  const Matrix matrix = buffer.matrix(rows, cols, dtype);
  backend.upload(from, matrix);
  return matrix;
}

}  // namespace

Head::Head(Backend& backend, const BackboneConfig& config, const BackboneWeights& weights,
           const Module& module, DType compute)
    : backend_(backend),
      config_(config),
      compute_(compute),
      norm_(backend, weights.final_norm(), config.norm_epsilon),
      projection_(backend, weights, module, weights.head(), std::nullopt, compute) {}

// The loss of one pack, chunk by chunk.
struct Head::Loss {
  const Head& head;
  const PackRows& pack;
  Matrix rows, drows;
  std::vector<Piece> pieces;
  Buffer row_buffer, target_buffer, weight_buffer, id_buffer;
  Matrix row_numbers, targets, weights, row_ids;
  Rows losses;  // [targets, 1]: -log p

  Loss(const Head& the_head, const PackRows& the_pack, const PackTargets& pack_targets, Matrix the_rows,
       Matrix the_drows);
  void run();
  void chunk(std::span<const Piece> pieces, int64_t first_number);
  void chunk_backward(HookCalls& hooks, Matrix x, Matrix inverse, Matrix normal, Matrix dlogits,
                      int64_t first, int64_t lower);
};

Head::Loss::Loss(const Head& the_head, const PackRows& the_pack, const PackTargets& pack_targets,
                 Matrix the_rows, Matrix the_drows)
    : head(the_head),
      pack(the_pack),
      rows(the_rows),
      drows(the_drows),
      pieces(cut(pack.pack(), pack_targets)) {
  Backend& backend = head.backend_;
  const int64_t count = int64_t(pack_targets.rows.size());
  std::vector<int32_t> ids;
  for (int32_t row : pack_targets.rows)
    for (size_t i : {0, 1}) ids.push_back(pack.row_ids()[2 * size_t(row) + i]);
  row_numbers = upload(backend, row_buffer, pack_targets.rows.data(), count, 1, DType::kI32);
  targets = upload(backend, target_buffer, pack_targets.targets.data(), count, 1, DType::kI32);
  weights = upload(backend, weight_buffer, pack_targets.weights.data(), count, 1, DType::kF32);
  row_ids = upload(backend, id_buffer, ids.data(), count, 2, DType::kI32);
  losses = make_rows(backend, count, 1);
}

void Head::Loss::run() {
  if (!drows.empty()) head.backend_.fill(drows, 0);
  for (size_t begin = 0; begin < pieces.size();) {
    size_t end = begin;
    int64_t count = 0;
    while (end < pieces.size() && count + pieces[end].count <= kChunkRows) count += pieces[end++].count;
    chunk(std::span(pieces).subspan(begin, end - begin), int64_t(begin));
    begin = end;
  }
}

void Head::Loss::chunk(std::span<const Piece> chunk_pieces, int64_t first_number) {
  Backend& backend = head.backend_;
  const int64_t first = chunk_pieces.front().first;
  PackUses uses;
  int64_t count = 0, training = 0, lower = 0;  // rows; those that train; those that go on below the head
  for (size_t p = 0; p < chunk_pieces.size(); ++p) {
    const Piece& piece = chunk_pieces[p];
    const Segment& segment = pack.pack().segments[piece.segment];
    if (const CachedAdapter* cached = pack.adapter(piece.segment)) {
      HookUse use;
      use.adapter = &cached->adapter;
      use.segment = &segment;
      use.number = first_number + int64_t(p);
      use.row = count;
      use.rows = piece.count;
      use.row_ids = row_ids.row_range(piece.first, piece.count);
      uses.add(*cached, use);
    }
    count += piece.count;
    if (segment.training) training = count;
    if (segment.lowest_layer < head.config_.layers) lower = count;
  }
  Rows x = make_rows(backend, count, rows.cols);
  Rows normal = make_rows(backend, count, rows.cols, head.compute_);
  Rows inverse = make_rows(backend, count, 1),
       logits = make_rows(backend, count, head.projection_.module().out);
  const GatherItem gather{rows, row_numbers.row_range(first, count), x.matrix};
  backend.gather_rows({&gather, 1});
  head.norm_.forward(backend, x.matrix, normal.matrix, inverse.matrix);
  HookStore store;
  HookCalls hooks(backend, head.config_, head.compute_, uses, head.config_.layers, count, &store);
  head.projection_.forward(hooks, normal.matrix, logits.matrix);
  const auto part = [&](Matrix of, int64_t from, int64_t size) { return of.row_range(first + from, size); };
  HookCalls backward_hooks(backend, head.config_, head.compute_, uses, head.config_.layers, training, &store);
  // The gradient takes the place of the logits: rounded, where no hook is to change it in float32.
  Matrix dlogits = logits.matrix.row_range(0, training);
  if (head.compute_ == DType::kBF16 && !head.projection_.backward_changes_dy(backward_hooks))
    dlogits = as_bfloat16(dlogits);
  if (training > 0)
    backend.cross_entropy_with_gradient(logits.matrix.row_range(0, training), part(targets, 0, training),
                                        part(weights, 0, training), part(losses.matrix, 0, training),
                                        dlogits);
  if (count > training)
    backend.cross_entropy(logits.matrix.row_range(training, count - training),
                          part(targets, training, count - training),
                          part(losses.matrix, training, count - training));
  if (training == 0) return;
  const auto trains = [&](const Rows& all) { return all.matrix.row_range(0, training); };
  chunk_backward(backward_hooks, trains(x), trains(inverse), trains(normal), dlogits, first, lower);
}

// The matrices span the rows that train; the first `lower` of them have a gradient of x, which goes to its
// rows of the pack.
void Head::Loss::chunk_backward(HookCalls& hooks, Matrix x, Matrix inverse, Matrix normal, Matrix dlogits,
                                int64_t first, int64_t lower) {
  Backend& backend = head.backend_;
  Rows dnormal;
  if (lower > 0) dnormal = make_rows(backend, lower, x.cols);
  head.projection_.backward(hooks, normal, dlogits, dnormal.matrix, false);
  if (lower == 0) return;
  const Rows dx = make_rows(backend, lower, x.cols);
  head.norm_.backward(backend, x.row_range(0, lower), inverse.row_range(0, lower), dnormal.matrix, dx.matrix,
                      false);
  const GatherItem scatter{drows, row_numbers.row_range(first, lower), dx.matrix};
  backend.scatter_add_rows({&scatter, 1});
}

std::vector<SegmentLoss> Head::loss(const PackRows& pack, const PackTargets& targets, Matrix rows,
                                    bool log_probabilities, Matrix drows) const {
  CHECK(targets.rows.size() == targets.targets.size() && targets.rows.size() == targets.weights.size());
  CHECK(std::is_sorted(targets.rows.begin(), targets.rows.end()));
  std::vector<SegmentLoss> segments(pack.pack().segments.size());
  Loss loss(*this, pack, targets, rows, drows);
  loss.run();
  std::vector<float> values(targets.rows.size());
  backend_.download(loss.losses.matrix, values.data());
  for (const Piece& piece : loss.pieces) {
    SegmentLoss& segment = segments[piece.segment];
    for (size_t i = size_t(piece.first); i < size_t(piece.first + piece.count); ++i) {
      segment.weighted_loss += double(targets.weights[i]) * double(values[i]);
      if (log_probabilities) segment.log_probability.push_back(-values[i]);
    }
  }
  return segments;
}

std::vector<float> Head::logits(const PackRows& pack, Matrix row) const {
  PackUses uses;
  if (const CachedAdapter* cached = pack.adapter(0)) {
    HookUse use;
    use.adapter = &cached->adapter;
    use.segment = &pack.pack().segments[0];
    use.rows = 1;
    uses.add(*cached, use);
  }
  const Rows normal = make_rows(backend_, 1, row.cols, compute_), inverse = make_rows(backend_, 1, 1);
  const Rows logits = make_rows(backend_, 1, projection_.module().out);
  norm_.forward(backend_, row, normal.matrix, inverse.matrix);
  HookCalls hooks(backend_, config_, compute_, uses, config_.layers, 1, nullptr);
  projection_.forward(hooks, normal.matrix, logits.matrix);
  std::vector<float> values(size_t(logits.matrix.cols));
  backend_.download(logits.matrix, values.data());
  return values;
}

}  // namespace coppice
