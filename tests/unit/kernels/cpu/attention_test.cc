// What attention makes of scores that only a diverging job has.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/base/random.h"
#include "common/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/registry.h"

namespace coppice {
namespace {

// Scores of 1e10, whose last bit is 1024: every query sees its largest key alone.
TEST(AttentionTest, HugeScoresStayFinite) {
  constexpr int64_t kRows = 70, kCols = 32;
  ThreadPool pool(2);
  Random random(3);
  const auto values = [&](float size) {
    std::vector<float> made(size_t(kRows * kCols));
    for (float& value : made) value = size * float(random.uniform() - 0.5);
    return made;
  };
  const std::vector<float> q = values(4e5f), k = values(4e5f), v = values(2), g = values(1);
  for (DType compute : {DType::kF32, DType::kBF16}) {
    std::vector<float> results[2];
    for (const char* name : {"ref", "cpu"}) {
      const auto backend = make_backend(name, pool);
      std::vector<Buffer> buffers;
      const auto put = [&](const std::vector<float>& from, int64_t cols) {
        buffers.push_back(backend->allocate(size_t(kRows * cols) * sizeof(float)));
        const Matrix matrix = buffers.back().matrix(kRows, cols);
        if (!from.empty()) backend->upload(from.data(), matrix);
        return matrix;
      };
      const AttentionShape shape{.heads = 2, .kv_heads = 2, .head_dim = 16, .scale = 0.25f};
      AttentionBackwardItem item;
      AttentionItem& forward = item.forward;
      forward.q = put(q, kCols), forward.k = put(k, kCols), forward.v = put(v, kCols);
      forward.out = put({}, kCols), forward.log_sum = put({}, 2);
      item.dout = put(g, kCols), item.dq = put({}, kCols), item.dk = put({}, kCols), item.dv = put({}, kCols);
      backend->attention(shape, {&item.forward, 1}, compute);
      backend->attention_backward(shape, {&item, 1}, compute);
      std::vector<float>& out = results[name == std::string("cpu")];
      out.resize(size_t(kRows * kCols));
      for (const Matrix& gradient : {item.dq, item.dk, item.dv}) {
        backend->download(gradient, out.data());
        for (float value : out) ASSERT_TRUE(std::isfinite(value)) << name << " " << dtype_name(compute);
      }
      backend->download(item.forward.out, out.data());
    }
    for (size_t i = 0; i < results[0].size(); ++i) ASSERT_NEAR(results[0][i], results[1][i], 0.02) << i;
  }
}

}  // namespace
}  // namespace coppice
