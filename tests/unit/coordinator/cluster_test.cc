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

}  // namespace
}  // namespace coppice
