#include "coordinator/params/placement.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace coppice {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PlacementTest, OneShardHasAll) {
  EXPECT_THAT(place_tensors({{3, 4}, {}, {0}}, 1), Each(0));
  EXPECT_THAT(place_tensors({}, 3), IsEmpty());
}

TEST(PlacementTest, TheLargestGoFirstEachToTheShardThatHasLeast) {
  // 10 -> 0, 8 -> 1, 7 -> 1 (8 < 10), 3 -> 0 (10 < 15), 3 -> 0 (13 < 15)
  EXPECT_THAT(place_tensors({{3}, {10}, {7}, {3}, {2, 4}}, 2), ElementsAre(0, 0, 1, 0, 1));
}

TEST(PlacementTest, EqualsGoByNumberToTheLowestShard) {
  EXPECT_THAT(place_tensors({{4}, {2, 2}, {4, 1}, {4}}, 3), ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(place_tensors({{4}, {5}}, 4), ElementsAre(1, 0));
}

// LoRA of many layers: A [8, 256], B of several widths.
TEST(PlacementTest, SharesAreNearlyEqual) {
  std::vector<Shape> shapes;
  for (int64_t i = 0; i < 50; ++i) {
    shapes.push_back({8, 256});
    shapes.push_back({i % 3 == 0 ? 704 : 256, 8});
  }
  for (const int shards : {2, 3, 7}) {
    std::vector<int64_t> held(size_t(shards), 0);
    const std::vector<int> places = place_tensors(shapes, shards);
    for (size_t i = 0; i < shapes.size(); ++i) held.at(size_t(places[i])) += element_count(shapes[i]);
    const auto [least, most] = std::minmax_element(held.begin(), held.end());
    EXPECT_LE(*most - *least, 704 * 8) << shards;
  }
}

}  // namespace
}  // namespace coppice
