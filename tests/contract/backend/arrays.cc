#include "tests/contract/backend/arrays.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/contract/backend/tolerance.h"

namespace coppice::contract {
namespace {

constexpr int64_t kRowsBefore = 1, kColsBefore = 3, kRowsAround = 3, kColsAround = 5;
constexpr auto kUntouched = std::byte{0xff};  // NaN as F32, F16 and BF16

// An array on the device, inside a frame of kUntouched bytes when it is a view.
class Place {
 public:
  Place(Backend& backend, const Array& array, Layout layout)
      : backend_(backend),
        framed_(layout == Layout::kViews),
        frame_(array.rows + (framed_ ? kRowsAround : 0), array.cols + (framed_ ? kColsAround : 0),
               array.dtype),
        buffer_(backend.allocate(frame_.bytes.size())) {
    std::fill(frame_.bytes.begin(), frame_.bytes.end(), kUntouched);
    const Matrix whole = buffer_.matrix(frame_.rows, frame_.cols, array.dtype);
    backend.upload(frame_.bytes.data(), whole);
    matrix = framed_ ? whole.row_range(kRowsBefore, array.rows).column_range(kColsBefore, array.cols) : whole;
    backend.upload(array.bytes.data(), matrix);
  }

  Array bring_back() {
    Array array(matrix.rows, matrix.cols, matrix.dtype);
    backend_.download(matrix, array.bytes.data());
    if (framed_) expect_frame_untouched();
    return array;
  }

  Matrix matrix;

 private:
  void expect_frame_untouched() {
    backend_.download(buffer_.matrix(frame_.rows, frame_.cols, frame_.dtype), frame_.bytes.data());
    const int64_t width = int64_t(dtype_size(frame_.dtype)), row_size = int64_t(frame_.row_size());
    for (int64_t i = 0; i < int64_t(frame_.bytes.size()); ++i) {
      const int64_t r = i / row_size - kRowsBefore, c = i % row_size / width - kColsBefore;
      const bool inside = r >= 0 && r < matrix.rows && c >= 0 && c < matrix.cols;
      if (!inside && frame_.bytes[size_t(i)] != kUntouched) {
        ADD_FAILURE() << "written outside of a [" << matrix.rows << ", " << matrix.cols << "] view, at row "
                      << r << " column " << c;
        return;
      }
    }
  }

  Backend& backend_;
  bool framed_;
  Array frame_;
  Buffer buffer_;
};

bool close(float actual, float expected, double allowed) {
  if (std::isnan(expected)) return std::isnan(actual);
  if (std::isinf(expected)) return actual == expected;
  return std::abs(double(actual) - expected) <= allowed;  // false where actual is NaN or infinite
}

}  // namespace

bool is_row(Use use) {
  return use == Use::kRowIn || use == Use::kRowOut || use == Use::kRowInOut;
}

Array uniform(int64_t rows, int64_t cols, Random& random, float scale) {
  Array array(rows, cols);
  for (int64_t i = 0; i < array.size(); ++i) array.f()[i] = float(random.uniform() * 2 - 1) * scale;
  return array;
}

Array filled(int64_t rows, int64_t cols, float value) {
  Array array(rows, cols);
  std::fill_n(array.f(), array.size(), value);
  return array;
}

Array indices(int64_t rows, int64_t below, Random& random, int64_t cols) {
  Array array(rows, cols, DType::kI32);
  for (int64_t i = 0; i < array.size(); ++i) array.i()[i] = int32_t(random.below(uint64_t(below)));
  return array;
}

Array in_dtype(const Array& f32, DType dtype) {
  Array array(f32.rows, f32.cols, dtype);
  for (int64_t i = 0; i < f32.size(); ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(f32.f()[i]);
    uint16_t half = to_bf16(f32.f()[i]);
    if (dtype == DType::kF16) {
      const int exponent = int(bits >> 23 & 255) - 112;
      half = uint16_t(bits >> 16 & 0x8000);
      if (exponent > 0 && exponent < 31) half = uint16_t(half | exponent << 10 | (bits >> 13 & 0x3ff));
    }
    std::memcpy(array.bytes.data() + 2 * i, &half, 2);
  }
  return array;
}

Array widened(const Array& bf16) {
  Array array(bf16.rows, bf16.cols);
  for (int64_t i = 0; i < array.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, bf16.bytes.data() + 2 * i, 2);
    array.f()[i] = from_bf16(half);
  }
  return array;
}

bool is_rounded(const Operator& op, size_t operand) {
  return std::find(op.rounded.begin(), op.rounded.end(), operand) != op.rounded.end();
}

Results run(Backend& backend, const Operator& op, const std::vector<Item>& items, Layout layout) {
  std::vector<std::vector<Place>> places(items.size());
  std::vector<Placed> placed(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    placed[i].host = &items[i];
    places[i].reserve(items[i].size());
    for (size_t o = 0; o < items[i].size(); ++o) {
      const Array& array = items[i][o].array;
      places[i].emplace_back(backend, is_rounded(op, o) ? in_dtype(array, DType::kBF16) : array, layout);
      placed[i].at.push_back(places[i].back().matrix);
    }
  }
  op.run(backend, placed);
  Results results(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    for (size_t o = 0; o < places[i].size(); ++o) {
      const Array array = places[i][o].bring_back();
      results[i].push_back(is_rounded(op, o) ? widened(array) : array);
    }
  }
  return results;
}

Array take_rows(const Array& array, const std::vector<int64_t>& rows) {
  Array taken(int64_t(rows.size()), array.cols, array.dtype);
  for (size_t r = 0; r < rows.size() && array.cols > 0; ++r) {
    std::memcpy(taken.bytes.data() + r * array.row_size(),
                array.bytes.data() + size_t(rows[r]) * array.row_size(), array.row_size());
  }
  return taken;
}

Item take_rows(const Item& item, const std::vector<int64_t>& rows) {
  Item taken;
  for (const Operand& operand : item) {
    taken.push_back({is_row(operand.use) ? take_rows(operand.array, rows) : operand.array, operand.use});
  }
  return taken;
}

void expect_equal_bits(const Array& actual, const Array& expected, const std::string& what) {
  ASSERT_EQ(actual.bytes.size(), expected.bytes.size());
  const size_t width = dtype_size(actual.dtype);
  for (size_t i = 0; i < actual.bytes.size(); i += width) {
    if (std::memcmp(&actual.bytes[i], &expected.bytes[i], width) == 0) continue;
    const int64_t element = int64_t(i / width);
    ADD_FAILURE() << what << ": other bits at row " << element / actual.cols << " column "
                  << element % actual.cols << " of [" << actual.rows << ", " << actual.cols << "]"
                  << (actual.dtype == DType::kF32
                          ? fmt::format(": {:a} instead of {:a}", actual.f()[element], expected.f()[element])
                          : std::string());
    return;
  }
}

void expect_equal_bits(const Results& actual, const Results& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    for (size_t o = 0; o < actual[i].size(); ++o) {
      expect_equal_bits(actual[i][o], expected[i][o], fmt::format("item {} operand {}", i, o));
    }
  }
}

void expect_close(const Array& actual, const Array& expected, double tolerance, const std::string& what,
                  double magnitude) {
  if (actual.dtype != DType::kF32) return expect_equal_bits(actual, expected, what);
  ASSERT_EQ(actual.size(), expected.size());
  double largest = magnitude;
  for (int64_t i = 0; i < expected.size(); ++i) {
    if (std::isfinite(expected.f()[i])) largest = std::max(largest, std::abs(double(expected.f()[i])));
  }
  const double allowed = tolerance * largest + kDenormalUnits;
  for (int64_t i = 0; i < actual.size(); ++i) {
    if (close(actual.f()[i], expected.f()[i], allowed)) continue;
    ADD_FAILURE() << what << ": row " << i / actual.cols << " column " << i % actual.cols << " of ["
                  << actual.rows << ", " << actual.cols << "] is " << actual.f()[i] << " instead of "
                  << expected.f()[i] << ", allowed difference " << allowed;
    return;
  }
}

void expect_close(const Results& actual, const Results& expected, double tolerance,
                  const std::vector<double>& magnitudes) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    for (size_t o = 0; o < actual[i].size(); ++o) {
      expect_close(actual[i][o], expected[i][o], tolerance, fmt::format("item {} operand {}", i, o),
                   o < magnitudes.size() ? magnitudes[o] : 0);
    }
  }
}

}  // namespace coppice::contract
