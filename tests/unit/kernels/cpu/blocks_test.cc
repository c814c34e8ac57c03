#include "kernels/cpu/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace coppice {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class BlocksTest : public ::testing::Test {
 protected:
  // A matrix over the test's memory, which is never read.
  Matrix matrix(int64_t offset, int64_t rows, int64_t cols, int64_t stride) {
    return {memory_.data() + offset * 4, DType::kF32, rows, cols, stride};
  }
  static std::vector<std::vector<int64_t>> items_of_tasks(const BlockPlan& plan,
                                                          std::span<const Matrix> outputs) {
    std::vector<std::vector<int64_t>> tasks(plan.tasks.size());
    for (size_t i = 0; i < tasks.size(); ++i) {
      plan.run(int64_t(i), outputs, [&](int64_t item, const Block&) { tasks[i].push_back(item); });
    }
    return tasks;
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 16);
};

TEST_F(BlocksTest, CoverEveryElementOnce) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {7, 9}, {8, 16}, {9, 17}, {40, 3}}) {
    const std::vector<Matrix> outputs = {matrix(0, rows, cols, 20)};
    const BlockPlan plan = plan_blocks(outputs, {8, 16});
    std::vector<int> seen(size_t(rows * cols));
    for (size_t i = 0; i < plan.tasks.size(); ++i) {
      plan.run(int64_t(i), outputs, [&](int64_t, const Block& block) {
        EXPECT_LE(block.rows, 8);
        EXPECT_LE(block.cols, 16);
        for (int64_t r = block.row; r < block.row + block.rows; ++r) {
          for (int64_t c = block.column; c < block.column + block.cols; ++c) ++seen[size_t(r * cols + c)];
        }
      });
    }
    EXPECT_THAT(seen, Each(1));
  }
}

TEST_F(BlocksTest, DoItemsOfOneOutputInTheirOrderInsideATask) {
  const std::vector<Matrix> outputs = {matrix(0, 16, 8, 8), matrix(128, 16, 8, 8), matrix(0, 16, 8, 8)};
  EXPECT_THAT(items_of_tasks(plan_blocks(outputs, {8, 8}), outputs),
              ElementsAre(ElementsAre(0, 2), ElementsAre(0, 2), ElementsAre(1), ElementsAre(1)));
}

TEST_F(BlocksTest, KeepColumnRangesOfOneMatrixApart) {
  const std::vector<Matrix> outputs = {matrix(8, 4, 8, 24), matrix(0, 4, 8, 24), matrix(16, 4, 8, 24),
                                       matrix(24 * 4, 4, 24, 24)};
  EXPECT_THAT(items_of_tasks(plan_blocks(outputs, {8, 32}), outputs),
              ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2), ElementsAre(3)));
}

TEST_F(BlocksTest, DoOutputsThatOverlapInPartWholeAndInOrder) {
  // Rows 0 to 7, rows 4 to 11, and columns that reach into both; the last has other strides.
  const std::vector<Matrix> outputs = {matrix(4 * 16, 8, 16, 16), matrix(0, 8, 16, 16), matrix(10, 3, 4, 16),
                                       matrix(1000, 2, 2, 2), matrix(5, 2, 3, 9)};
  const BlockPlan plan = plan_blocks(outputs, {2, 2});
  EXPECT_THAT(items_of_tasks(plan, outputs), ElementsAre(ElementsAre(0, 1, 2, 4), ElementsAre(3)));
  plan.run(0, outputs, [&](int64_t item, const Block& block) {
    EXPECT_EQ(block.rows, outputs[size_t(item)].rows);
    EXPECT_EQ(block.cols, outputs[size_t(item)].cols);
  });
}

TEST_F(BlocksTest, SeeNeighboursThatWrapAroundARow) {
  // Columns 12 to 15 and then 0 to 3 of the next row: the second begins where the first one's row ends.
  const std::vector<Matrix> apart = {matrix(12, 4, 4, 16), matrix(16, 4, 4, 16)};
  EXPECT_THAT(plan_blocks(apart, {8, 32}).tasks, SizeIs(2));
  const std::vector<Matrix> together = {matrix(12, 4, 4, 16), matrix(26, 4, 4, 16)};
  EXPECT_THAT(plan_blocks(together, {8, 32}).tasks, SizeIs(1));
}

TEST_F(BlocksTest, GiveNoTaskToWhatIsEmpty) {
  const std::vector<Matrix> outputs = {matrix(0, 0, 8, 8), matrix(0, 8, 0, 8)};
  EXPECT_THAT(plan_blocks(outputs, {}).tasks, SizeIs(0));
  EXPECT_THAT(plan_blocks({}, {}).tasks, SizeIs(0));
}

}  // namespace
}  // namespace coppice
