#include "coordinator/schedule/measure_costs.h"

#include <gtest/gtest.h>

#include "common/base/thread_pool.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/worker/tiny_backbone.h"

namespace coppice {
namespace {

class MeasureCostsTest : public ::testing::Test {
 protected:
  LayerCosts measure(const TinyShape& shape) {
    const TinyBackbone backbone(shape);
    return measure_costs(backend_, backbone.config(), backbone.folder(), DType::kF32);
  }
  ThreadPool pool_{1};
  RefBackend backend_{pool_};
};

// 21 times as many logits: the head's cost grows, beyond what a loaded machine adds.
TEST_F(MeasureCostsTest, ALargerVocabularyMakesADearerHead) {
  const LayerCosts small = measure({.layers = 2, .vocabulary = 37});
  const LayerCosts large = measure({.layers = 2, .vocabulary = 777});
  EXPECT_GT(small.block_seconds, 0);
  EXPECT_GT(small.head_seconds, 0);
  EXPECT_GT(large.head_seconds / large.block_seconds, 2 * small.head_seconds / small.block_seconds);
}

TEST_F(MeasureCostsTest, ABackboneOfOneLayerIsMeasuredToo) {
  const LayerCosts costs = measure({.layers = 1, .tied = true});
  EXPECT_GT(costs.block_seconds, 0);
  EXPECT_GT(costs.head_seconds, 0);
}

}  // namespace
}  // namespace coppice
