#pragma once
// Arrays of the contract tests: made in host memory, placed on a device densely or as views into something
// larger, run through an operator, and brought back. Outputs start as NaN, and what lies around a view must
// come back untouched. Thread: the test's. Errors: differences are GoogleTest failures.

#include <functional>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "kernels/backend.h"

namespace coppice::contract {

struct Array {
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  std::vector<std::byte> bytes;

  Array(int64_t rows, int64_t cols, DType dtype = DType::kF32)
      : dtype(dtype), rows(rows), cols(cols), bytes(size_t(rows * cols) * dtype_size(dtype)) {}
  int64_t size() const { return rows * cols; }
  size_t row_size() const { return size_t(cols) * dtype_size(dtype); }
  float* f() { return reinterpret_cast<float*>(bytes.data()); }
  const float* f() const { return reinterpret_cast<const float*>(bytes.data()); }
  int32_t* i() { return reinterpret_cast<int32_t*>(bytes.data()); }
  const int32_t* i() const { return reinterpret_cast<const int32_t*>(bytes.data()); }
  float& at(int64_t r, int64_t c) { return f()[r * cols + c]; }
  float at(int64_t r, int64_t c) const { return f()[r * cols + c]; }
  TensorView view() const { return {dtype, {rows, cols}, bytes}; }
};

Array uniform(int64_t rows, int64_t cols, Random& random, float scale = 1);  // in [-scale, scale)
Array filled(int64_t rows, int64_t cols, float value);
Array indices(int64_t rows, int64_t below, Random& random, int64_t cols = 1);  // I32
Array in_dtype(const Array& f32, DType dtype);  // BF16 or F16; F16 cuts off bits
Array widened(const Array& bf16);

// What an operand is to its operator. A row operand has one row for each row of the pack; a whole one belongs
// to the item.
enum class Use { kRowIn, kRowOut, kRowInOut, kWholeIn, kWholeOut, kWholeInOut };
bool is_row(Use use);

struct Operand {
  Array array;
  Use use = Use::kRowIn;
};
using Item = std::vector<Operand>;

// An item on the device. host is for weights, which are prepared from host memory.
struct Placed {
  const Item* host = nullptr;
  std::vector<Matrix> at;
  Matrix operator[](size_t i) const { return at[i]; }
};

struct Size {
  int64_t rows = 0, cols = 0;
};

// One operator in one variant. make builds an item of a size (cols in whatever sense the operator gives it);
// run computes all items in one call. An operator that is not grouped takes one item.
struct Operator {
  std::string name;
  std::vector<Size> sizes;
  std::function<Item(Size, Random&)> make;
  std::function<void(Backend&, std::span<const Placed>)> run;
  double tolerance = 0;
  // By operand, of terms that may cancel in all of an output: errors are measured against no less. Empty: 0.
  std::vector<double> magnitudes;
  std::vector<size_t> rounded;  // operands, F32, that the device is given as BF16
  bool grouped = false;
  bool spreads_nan = false;        // within an item
  bool flushes_denormals = false;  // bfloat16 products of processors take and give denormals as zero
};

enum class Layout { kDense, kViews };

using Results = std::vector<std::vector<Array>>;  // [item][operand], inputs included
bool is_rounded(const Operator& op, size_t operand);
Results run(Backend& backend, const Operator& op, const std::vector<Item>& items,
            Layout layout = Layout::kDense);

Item take_rows(const Item& item, const std::vector<int64_t>& rows);
Array take_rows(const Array& array, const std::vector<int64_t>& rows);

// Failures name the first differing element.
void expect_equal_bits(const Array& actual, const Array& expected, const std::string& what);
void expect_equal_bits(const Results& actual, const Results& expected);
// Within tolerance * (largest finite magnitude of expected, but at least magnitude); NaN where NaN, infinite
// where infinite.
void expect_close(const Array& actual, const Array& expected, double tolerance, const std::string& what,
                  double magnitude = 0);
void expect_close(const Results& actual, const Results& expected, double tolerance,
                  const std::vector<double>& magnitudes = {});

}  // namespace coppice::contract
