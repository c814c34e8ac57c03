#include "kernels/startup_check.h"

#include <array>
#include <cstring>
#include <vector>

#include "common/base/error.h"
#include "common/base/random.h"

namespace coppice {
namespace {

std::vector<float> random_values(uint64_t key, int64_t count) {
  std::vector<float> values(size_t(count), 0.0f);
  Random random(key);
  for (float& value : values) value = float(random.uniform()) - 0.5f;
  return values;
}

// The row alone, and then at every position among others: at the even positions in one call, at the odd ones
// in the next. product(x, y) computes y [rows, outputs] from x [rows, inputs].
template <typename Product>
bool row_has_equal_bits(Backend& backend, int64_t inputs, int64_t outputs, const Product& product) {
  constexpr int64_t kRows = 259;  // more than the largest tile, and no multiple of anything
  const std::vector<float> row = random_values(1, inputs), others = random_values(2, kRows * inputs);
  const Buffer x_buffer = backend.allocate(size_t(kRows * inputs) * sizeof(float));
  const Buffer y_buffer = backend.allocate(size_t(kRows * outputs) * sizeof(float));
  const Matrix x = x_buffer.matrix(kRows, inputs), y = y_buffer.matrix(kRows, outputs);
  std::vector<float> alone(size_t(outputs), 0.0f), result(size_t(kRows * outputs), 0.0f);
  backend.upload(row.data(), x.row_range(0, 1));
  product(x.row_range(0, 1), y.row_range(0, 1));
  backend.download(y.row_range(0, 1), alone.data());
  for (int64_t parity : {0, 1}) {
    backend.upload(others.data(), x);
    for (int64_t r = parity; r < kRows; r += 2) backend.upload(row.data(), x.row_range(r, 1));
    product(x, y);
    backend.download(y, result.data());
    for (int64_t r = parity; r < kRows; r += 2) {
      if (std::memcmp(&result[size_t(r * outputs)], alone.data(), alone.size() * sizeof(float)) != 0)
        return false;
    }
  }
  return true;
}

}  // namespace

void check_equal_bits(Backend& backend, DType compute) {
  constexpr std::array<std::array<int64_t, 2>, 4> kShapes = {{{16, 1000}, {1000, 16}, {33, 255}, {16, 2048}}};
  for (const auto& [out, in] : kShapes) {
    const std::vector<float> values = random_values(3, out * in);
    const auto weight =
        backend.prepare_weight({DType::kF32, {out, in}, std::as_bytes(std::span(values))}, compute);
    const bool forward =
        row_has_equal_bits(backend, in, out, [&](Matrix x, Matrix y) { backend.linear(*weight, x, {}, y); });
    const bool backward = row_has_equal_bits(
        backend, out, in, [&](Matrix dy, Matrix dx) { backend.linear_backward(*weight, dy, dx, false); });
    if (forward && backward) continue;
    throw failed(
        "backend '{}' ({}): the {} product of a row with a weight [{}, {}] in {} depends on the rows beside it "
        "on this processor, so jobs could not be kept apart; another backend or dtype may do",
        backend.name(), backend.instruction_set(), forward ? "backward" : "forward", out, in,
        dtype_name(compute));
  }
}

}  // namespace coppice
