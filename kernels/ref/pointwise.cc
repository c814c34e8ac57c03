// Operators that treat every element, or every row, for itself, and the sums over rows that are their
// backward. Sums over rows go down the rows in float32, and are added to what they accumulate into once, at
// the end.

#include <cmath>
#include <numbers>

#include "common/base/check.h"
#include "common/base/random.h"
#include "kernels/ref/ref_backend.h"

namespace coppice {
namespace {

// f(x) and its derivative, from the same formula. With s = 1 / (1 + exp(-x)):
//   silu  x s,                                 s + x s (1 - s)
//   gelu  x P(x), P the normal distribution,   P(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//   gelu_tanh  x (1 + t) / 2, t = tanh(u), u = sqrt(2 / pi) (x + 0.044715 x^3),   (1 + t) / 2 + x (1 - t^2)
//   u' / 2 relu  max(x, 0),                           1 where x > 0
struct ValueAndSlope {
  float value, slope;
};

ValueAndSlope evaluate(Activation f, float x) {
  switch (f) {
    case Activation::kSilu: {
      const float s = 1 / (1 + std::exp(-x));
      return {x * s, s + x * s * (1 - s)};
    }
    case Activation::kGelu: {
      const float p = 0.5f * (1 + std::erf(x * std::numbers::sqrt2_v<float> / 2));
      const float density =
          std::exp(-0.5f * x * x) * std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
      return {x * p, p + x * density};
    }
    case Activation::kGeluTanh: {
      const float root = std::numbers::sqrt2_v<float> * std::numbers::inv_sqrtpi_v<float>;
      const float t = std::tanh(root * (x + 0.044715f * x * x * x));
      const float du = root * (1 + 3 * 0.044715f * x * x);
      return {0.5f * x * (1 + t), 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * du};
    }
    case Activation::kRelu:
      return {x < 0 ? 0 : x, x <= 0 ? 0.0f : 1.0f};
  }
  CHECK(false);
}

void check_same(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && a.dtype == DType::kF32 && b.dtype == DType::kF32);
}

// The same of what may be BF16.
void check_floats(const Matrix& a, const Matrix& b) {
  CHECK(a.rows == b.rows && a.cols == b.cols && is_float(a.dtype) && is_float(b.dtype));
}

}  // namespace

void RefBackend::gated_activation(Activation f, Matrix gate, Matrix up, Matrix out) {
  check_floats(gate, up);
  check_floats(gate, out);
  for_each(gate.rows, [&](int64_t r) {
    for (int64_t c = 0; c < gate.cols; ++c) {
      set_element(out, r, c, evaluate(f, element(gate, r, c)).value * element(up, r, c));
    }
  });
}

// dgate = dout * up * f'(gate), dup = dout * f(gate)
void RefBackend::gated_activation_backward(Activation f, Matrix gate, Matrix up, Matrix dout, Matrix dgate,
                                           Matrix dup) {
  for (const Matrix& x : {up, dout, dgate, dup}) check_floats(gate, x);
  for_each(gate.rows, [&](int64_t r) {
    for (int64_t c = 0; c < gate.cols; ++c) {
      const ValueAndSlope at = evaluate(f, element(gate, r, c));
      const float d = element(dout, r, c), u = element(up, r, c);
      set_element(dgate, r, c, d * u * at.slope);
      set_element(dup, r, c, d * at.value);
    }
  });
}

void RefBackend::activation(Activation f, std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) {
    check_same(item.x, item.y);
    for_each(item.x.rows, [&](int64_t r) {
      for (int64_t c = 0; c < item.x.cols; ++c)
        f32_row(item.y, r)[c] = evaluate(f, f32_row(item.x, r)[c]).value;
    });
  }
}

// dx = dy * f'(x)
void RefBackend::activation_backward(Activation f, std::span<const UnaryBackwardItem> items) {
  for (const UnaryBackwardItem& item : items) {
    check_same(item.x, item.dy);
    check_same(item.x, item.dx);
    for_each(item.x.rows, [&](int64_t r) {
      for (int64_t c = 0; c < item.x.cols; ++c) {
        f32_row(item.dx, r)[c] = f32_row(item.dy, r)[c] * evaluate(f, f32_row(item.x, r)[c]).slope;
      }
    });
  }
}

void RefBackend::add(std::span<const UnaryItem> items) {
  for (const UnaryItem& item : items) {
    check_same(item.x, item.y);
    for_each(item.x.rows, [&](int64_t r) {
      for (int64_t c = 0; c < item.x.cols; ++c) f32_row(item.y, r)[c] += f32_row(item.x, r)[c];
    });
  }
}

void RefBackend::scale_columns(std::span<const ScaleColumnsItem> items) {
  for (const ScaleColumnsItem& item : items) {
    check_same(item.x, item.y);
    CHECK(item.scale.rows == 1 && item.scale.cols == item.x.cols);
    for_each(item.x.rows, [&](int64_t r) {
      for (int64_t c = 0; c < item.x.cols; ++c)
        f32_row(item.y, r)[c] = f32_row(item.x, r)[c] * f32_row(item.scale, 0)[c];
    });
  }
}

// dscale += sum over rows of dy * x, dx = dy * scale; dx may be dy, so a column's sum comes first.
void RefBackend::scale_columns_backward(std::span<const ScaleColumnsBackwardItem> items) {
  for (const ScaleColumnsBackwardItem& item : items) {
    check_floats(item.x, item.dy);
    check_same(item.scale, item.dscale);
    CHECK(item.scale.rows == 1 && item.scale.cols == item.x.cols);
    if (!item.dx.empty()) check_same(item.dy, item.dx);
    for_each(item.x.cols, [&](int64_t c) {
      float sum = 0;
      for (int64_t r = 0; r < item.x.rows; ++r) sum += f32_row(item.dy, r)[c] * element(item.x, r, c);
      f32_row(item.dscale, 0)[c] += sum;
      for (int64_t r = 0; r < item.x.rows && !item.dx.empty(); ++r) {
        f32_row(item.dx, r)[c] = f32_row(item.dy, r)[c] * f32_row(item.scale, 0)[c];
      }
    });
  }
}

void RefBackend::add_bias(std::span<const BiasItem> items) {
  for (const BiasItem& item : items) {
    CHECK(item.bias.rows == 1 && item.bias.cols == item.y.cols);
    for_each(item.y.rows, [&](int64_t r) {
      for (int64_t c = 0; c < item.y.cols; ++c) f32_row(item.y, r)[c] += f32_row(item.bias, 0)[c];
    });
  }
}

// dbias += sum over rows of dy
void RefBackend::add_bias_backward(std::span<const BiasItem> items) {
  for (const BiasItem& item : items) {
    CHECK(item.bias.rows == 1 && item.bias.cols == item.y.cols);
    for_each(item.y.cols, [&](int64_t c) {
      float sum = 0;
      for (int64_t r = 0; r < item.y.rows; ++r) sum += f32_row(item.y, r)[c];
      f32_row(item.bias, 0)[c] += sum;
    });
  }
}

// A dropped element gives 0 whatever it was (also NaN), and with accumulate leaves y as it is.
void RefBackend::dropout(std::span<const DropoutItem> items) {
  for (const DropoutItem& item : items) {
    check_floats(item.x, item.y);
    CHECK(item.row_ids.dtype == DType::kI32 && item.row_ids.rows == item.x.rows && item.row_ids.cols == 2);
    CHECK(item.p >= 0 && item.p <= 1);
    const uint64_t threshold = uint64_t(std::llround(double(item.p) * 0x1p32));
    const float scale = 1 / (1 - item.p);
    for_each(item.x.rows, [&](int64_t r) {
      const auto sequence = uint32_t(i32_row(item.row_ids, r)[0]),
                 position = uint32_t(i32_row(item.row_ids, r)[1]);
      for (int64_t c = 0; c < item.x.cols; ++c) {
        const bool kept =
            philox(item.key, {uint32_t(c / 4), position, sequence, 0})[size_t(c % 4)] >= threshold;
        const float value = kept ? element(item.x, r, c) * scale : 0;
        float& y = f32_row(item.y, r)[c];
        y = !item.accumulate ? value : kept ? y + value : y;
      }
    });
  }
}

void RefBackend::gather_rows(std::span<const GatherItem> items) {
  for (const GatherItem& item : items) {
    const Matrix& table = item.table;
    CHECK(item.indices.dtype == DType::kI32 && item.indices.rows == item.rows.rows &&
          item.rows.cols == table.cols);
    CHECK(table.dtype == DType::kF32 || table.dtype == DType::kF16 || table.dtype == DType::kBF16);
    for_each(item.rows.rows, [&](int64_t r) {
      const int64_t index = i32_row(item.indices, r)[0];
      CHECK(index >= 0 && index < table.rows);
      const auto* const half = reinterpret_cast<const uint16_t*>(row_bytes(table, index));
      for (int64_t c = 0; c < table.cols; ++c) {
        f32_row(item.rows, r)[c] = table.dtype == DType::kF32   ? f32_row(table, index)[c]
                                   : table.dtype == DType::kF16 ? from_f16(half[c])
                                                                : from_bf16(half[c]);
      }
    });
  }
}

// The backward of gather_rows: rows that name the same index are added one after another.
void RefBackend::scatter_add_rows(std::span<const GatherItem> items) {
  for (const GatherItem& item : items) {
    check_same(item.table.row_range(0, 0), item.rows.row_range(0, 0));
    CHECK(item.indices.dtype == DType::kI32 && item.indices.rows == item.rows.rows);
    for (int64_t r = 0; r < item.rows.rows; ++r) {
      const int64_t index = i32_row(item.indices, r)[0];
      CHECK(index >= 0 && index < item.table.rows);
      for (int64_t c = 0; c < item.table.cols; ++c) f32_row(item.table, index)[c] += f32_row(item.rows, r)[c];
    }
  }
}

}  // namespace coppice
