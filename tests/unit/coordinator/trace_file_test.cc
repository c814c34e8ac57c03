#include "coordinator/trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/io/json.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using testing::HasSubstr;

TEST(TraceFileTest, ClosedItIsAnArrayOfEvents) {
  const TestFolder folder;
  TraceFile file(folder.file("trace.json"));
  file.name_rank(3, "pipeline 1 stage 0, layers 4-8");
  file.add(3, {{"forward", 2.5, 0.25, 12, "a \"job\""}, {"wait", 2.75, 0, 0, ""}});
  file.close();
  const Json events = read_json_file(folder.file("trace.json"));
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0], parse_json(R"({"name":"process_name","ph":"M","pid":3,"tid":0,
                                      "args":{"name":"rank 3: pipeline 1 stage 0, layers 4-8"}})",
                                  "expected"));
  EXPECT_EQ(events[1]["args"]["sort_index"], 3);
  EXPECT_EQ(events[2]["args"]["name"], "steps");
  EXPECT_EQ(events[3], parse_json(R"({"name":"forward","ph":"X","ts":2500000.0,"dur":250000.0,"pid":3,"tid":0,
                                      "args":{"pack":12,"job":"a \"job\""}})",
                                  "expected"));
  EXPECT_EQ(events[4],
            parse_json(R"({"name":"wait","ph":"X","ts":2750000.0,"dur":0.0,"pid":3,"tid":0,"args":{}})",
                       "expected"));
}

TEST(TraceFileTest, WithoutSpansItIsAnEmptyArray) {
  const TestFolder folder;
  { const TraceFile file(folder.file("trace.json")); }
  EXPECT_EQ(read_json_file(folder.file("trace.json")), Json::array());
}

TEST(TraceFileTest, WhatWasAddedIsThereWhenTheProcessIsKilled) {
  const TestFolder folder;
  TraceFile file(folder.file("trace.json"));
  file.add(1, {{"forward", 1, 1, 1, ""}, {"backward", 2, 1, 1, ""}});
  const std::string so_far = read_file(folder.file("trace.json"));
  EXPECT_EQ(so_far.back(), '\n');
  EXPECT_EQ(parse_json(so_far + "]", "trace").size(), 2u);
  file.add(1, {{"forward", 3, 1, 2, ""}});
  EXPECT_EQ(parse_json(read_file(folder.file("trace.json")) + "]", "trace").size(), 3u);
}

TEST(TraceFileTest, CommitsHaveATrackOfTheirOwn) {
  const TestFolder folder;
  TraceFile file(folder.file("trace.json"));
  file.add(0, {{"update", 1, 2, 0, "j"}, {"commit", 2, 2, 0, "j"}, {"commit", 5, 1, 0, "j"}});
  file.close();
  const Json events = read_json_file(folder.file("trace.json"));
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["tid"], 0);
  EXPECT_EQ(events[1]["args"]["name"], "commits");
  EXPECT_EQ(events[2]["tid"], 1);
  EXPECT_EQ(events[3]["tid"], 1);
}

TEST(TraceFileTest, ANameThatIsNoUtf8IsStillJson) {
  const TestFolder folder;
  TraceFile file(folder.file("trace.json"));
  file.add(0, {{"forward", 1, 2, 0, "\xff\n"}});
  file.close();
  EXPECT_EQ(read_json_file(folder.file("trace.json"))[0]["args"]["job"], "\xef\xbf\xbd\n");
}

TEST(TraceFileTest, TimesThatAreNoneAreRefused) {
  const TestFolder folder;
  TraceFile file(folder.file("trace.json"));
  const double infinity = std::numeric_limits<double>::infinity();
  for (const TraceSpan& span :
       {TraceSpan{"forward", std::nan(""), 1, 0, ""}, TraceSpan{"forward", 1, infinity, 0, ""},
        TraceSpan{"forward", 1, -0.5, 0, ""}}) {
    EXPECT_THAT(message_of([&] { file.add(4, {span}); }), HasSubstr("rank 4: a trace span"));
  }
  file.close();
  EXPECT_EQ(read_json_file(folder.file("trace.json")), Json::array());
}

TEST(TraceFileTest, AFolderThatIsNotThereIsNamed) {
  const TestFolder folder;
  EXPECT_THAT(message_of([&] { TraceFile file(folder.file("none/trace.json")); }),
              HasSubstr("none/trace.json"));
}

}  // namespace
}  // namespace coppice
