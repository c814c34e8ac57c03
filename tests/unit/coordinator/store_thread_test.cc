#include "coordinator/store_thread.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <new>

#include "common/base/error.h"

namespace coppice {
namespace {

TEST(StoreThreadTest, WhatGoesWrongForOneJobIsToldAndTheNextGoesOn) {
  const auto store = make_memory_store();
  StoreThread thread(*store);
  std::vector<std::string> told;
  const auto note = [&](const std::string& error) { told.push_back(error); };
  thread.submit([] { throw std::bad_alloc(); }, note);
  thread.submit([] { throw failed("tensor {} is damaged", 3); }, note);
  thread.submit([] { std::filesystem::create_directory("/proc/none"); }, note);
  thread.submit([] {}, note);
  thread.drain();
  ASSERT_EQ(told.size(), 4u);
  EXPECT_EQ(told[0], "memory has run out");
  EXPECT_EQ(told[1], "tensor 3 is damaged");
  EXPECT_NE(told[2], "");
  EXPECT_EQ(told[3], "");
  EXPECT_TRUE(thread.idle());
}

}  // namespace
}  // namespace coppice
