#include "coordinator/schedule/memory_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMebibyte = 1 << 20;

class MemoryModelTest : public ::testing::Test {
 protected:
  MemoryModelTest() {
    BackboneConfig& config = model_.config;
    config.hidden = 256;
    config.intermediate = 704;
    config.layers = 8;
    config.heads = 8;
    config.kv_heads = 4;
    config.head_dim = 32;
    config.vocabulary = 4096;
    model_.weight_bytes = MemoryModel::estimate_weight_bytes(config, DType::kF32);
    model_.pack_rows = 2048;
    method_ = configure_method(Json{{"peft_type", "LORA"}, {"r", 8}, {"target_modules", "all-linear"}},
                               config, "method");
  }

  std::string refusal(int64_t rows, int64_t others_bytes) {
    try {
      model_.admit("tone", *method_, rows, false, others_bytes);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kExhausted);
      return error.what();
    }
    return "";
  }

  MemoryModel model_;
  std::unique_ptr<MethodConfig> method_;
};

TEST_F(MemoryModelTest, AdmitsWhatFits) {
  model_.limit_bytes = 1024 * kMebibyte;
  EXPECT_EQ(refusal(2048, 0), "");
}

TEST_F(MemoryModelTest, RefusesWithTheNumbers) {
  model_.limit_bytes = 100 * kMebibyte;
  const std::string message = refusal(2048, 0);
  EXPECT_THAT(message, HasSubstr("job tone does not fit"));
  EXPECT_THAT(message, HasSubstr("100 MiB are there"));
  EXPECT_THAT(message, HasSubstr("2048 rows"));
}

TEST_F(MemoryModelTest, CountsTheAdaptersOfOtherJobs) {
  model_.limit_bytes = 1024 * kMebibyte;
  EXPECT_NE(refusal(2048, 1000 * kMebibyte), "");
}

TEST_F(MemoryModelTest, CountsAMicroBatchLargerThanAPack) {
  model_.limit_bytes = 1024 * kMebibyte;
  EXPECT_NE(refusal(100000, 0), "");
}

TEST_F(MemoryModelTest, CheckpointingKeepsLess) {
  EXPECT_LT(model_.packs_bytes(true), model_.packs_bytes(false) / 2);
}

TEST(AvailableMemoryTest, IsThere) {
  EXPECT_GT(available_memory_bytes(), 64 * kMebibyte);
}

}  // namespace
}  // namespace coppice
