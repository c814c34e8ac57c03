#include <gtest/gtest.h>

#include <iostream>
#include <random>

#include "tests/contract/transport/party.h"

namespace coppice {
namespace {

class LoopbackContractTest : public testing::TestWithParam<std::tuple<Pattern, int>> {};

TEST_P(LoopbackContractTest, EveryMessageArrivesWholeAndInOrder) {
  const auto& [pattern, size] = GetParam();
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << std::endl;
  const auto ends = make_loopback(size);
  std::vector<Inbox> inboxes{size_t(size)};
  std::vector<std::unique_ptr<Party>> parties;
  for (int rank = 0; rank < size; ++rank) {
    parties.push_back(std::make_unique<Party>(*ends[size_t(rank)], inboxes[size_t(rank)], pattern, 1, seed));
  }
  bool working = true;
  for (size_t turns = 0; working; ++turns) {
    ASSERT_LT(turns, 1000000u) << "messages are missing";
    ASSERT_FALSE(HasFatalFailure());
    working = false;
    for (const auto& party : parties) working |= party->step();
  }
}

INSTANTIATE_TEST_SUITE_P(AllPatterns, LoopbackContractTest,
                         testing::Combine(testing::ValuesIn(patterns()), testing::Values(1, 2, 4, 7)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) + "Of" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace coppice
