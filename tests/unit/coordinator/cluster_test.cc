#include "coordinator/cluster.h"

#include <gtest/gtest.h>

#include "common/base/error.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

TEST(ClusterShapeTest, NamesARankByItsRole) {
  const ClusterShape shape{2, 2, 3};
  EXPECT_EQ(shape.named(0), "rank 0 (the coordinator)");
  EXPECT_EQ(shape.named(2), "rank 2 (parameter rank 2 of 2)");
  EXPECT_EQ(shape.named(3), "rank 3 (stage 0 of pipeline 0)");
  EXPECT_EQ(shape.named(7), "rank 7 (stage 1 of pipeline 1)");
  EXPECT_EQ(shape.named(shape.stage_ranks(1).back()), "rank 8 (stage 2 of pipeline 1)");
}

TEST(ClusterTest, ARankThatFailedIsNamedByItsRole) {
  proto::RankFailed told;
  told.set_message("memory has run out");
  told.set_code(int(ErrorCode::kExhausted));
  Message message = make_message(proto::RANK_FAILED, told);
  message.from = 2;
  const Error error = error_of([&] { throw_rank_failed({0, 1, 2}, message); });
  EXPECT_EQ(error.code(), ErrorCode::kExhausted);
  EXPECT_STREQ(error.what(), "rank 2 (stage 1 of pipeline 0): memory has run out");
}

TEST(ClusterTest, ARankThatComputesOtherwiseIsRefused) {
  Backbone backbone;
  backbone.path = "/backbone";
  backbone.fingerprint = 7;
  proto::Configured answer;
  answer.set_host("second");
  answer.set_instruction_set("avx2");
  answer.set_backbone_fingerprint(7);
  check_same("rank 1", answer, backbone, "avx2");
  const Error other = error_of([&] { check_same("rank 1", answer, backbone, "amx"); });
  EXPECT_EQ(other.code(), ErrorCode::kInvalid);
  EXPECT_STREQ(other.what(),
               "rank 1 on second computes with avx2, rank 0 with amx; the same is needed for equal bits");
  answer.set_backbone_fingerprint(8);
  EXPECT_EQ(error_of([&] { check_same("rank 1", answer, backbone, "avx2"); }).code(), ErrorCode::kInvalid);
}

}  // namespace
}  // namespace coppice
