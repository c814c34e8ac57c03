#include "common/io/jsonl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "common/io/files.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::StartsWith;

class JsonlTest : public ::testing::Test {
 protected:
  std::vector<std::pair<int64_t, std::string>> read(std::string_view text, size_t max_line_bytes = 1000) {
    write_file_atomically(path_, text);
    std::vector<std::pair<int64_t, std::string>> rows;
    read_jsonl(
        path_, [&](Json row, int64_t line) { rows.emplace_back(line, row.dump()); }, max_line_bytes);
    return rows;
  }
  std::string message(std::string_view text) {
    return message_of([&] { read(text); });
  }

  TestFolder folder_;
  std::string path_ = folder_.file("a.jsonl");
};

using Rows = std::vector<std::pair<int64_t, std::string>>;

TEST_F(JsonlTest, ReadsObjectsWithTheirLineNumbers) {
  EXPECT_EQ(read(""), Rows{});
  EXPECT_EQ(read("\n \n\r\n"), Rows{});
  EXPECT_EQ(read("{\"a\":1}"), (Rows{{1, "{\"a\":1}"}}));
  EXPECT_EQ(read("{\"a\":1}\r\n\n  {}\t\n{\"b\":\"\\n\"}\n"),
            (Rows{{1, "{\"a\":1}"}, {3, "{}"}, {4, "{\"b\":\"\\n\"}"}}));
}

TEST_F(JsonlTest, ReadsLinesAcrossBuffers) {
  std::string text;
  Rows expected;
  for (int i = 0; i < 300; ++i) {
    const std::string row = "{\"a\":\"" + std::string(size_t(i) * 7 % 950, 'x') + "\"}";
    text += row + "\n";
    expected.emplace_back(i + 1, row);
  }
  EXPECT_EQ(read(text), expected);
}

TEST_F(JsonlTest, NamesFileAndLineOfABadOne) {
  EXPECT_EQ(message("{}\n\n{\"a\": tru}\n"), path_ + ":3:10: invalid literal");
  EXPECT_EQ(message("{}\n[1]\n"), path_ + ":2: the line is [1]; a JSON object is accepted");
  EXPECT_THAT(message("{}\n{} {}\n"), StartsWith(path_ + ":2:4: "));
  EXPECT_THAT(message("{\"a\": \"\xff\"}\n"), StartsWith(path_ + ":1:8: "));
  EXPECT_THAT(message("{\"a\":\n1}\n"), StartsWith(path_ + ":1:"));
  EXPECT_THAT(message(std::string("{}\n\0\n", 5)), StartsWith(path_ + ":2:"));
  EXPECT_THAT(message("{\"a\":1,\"a\":2}"), StartsWith(path_ + ":1:"));
}

TEST_F(JsonlTest, BoundsTheLine) {
  const std::string row = "{\"a\":\"" + std::string(991, 'x') + "\"}";
  ASSERT_EQ(row.size(), 999u);
  EXPECT_EQ(read(row + " \n").size(), 1u);
  EXPECT_EQ(message("{}\n" + row + "  \n"), path_ + ":2: the line is longer than 1000 bytes");
  EXPECT_EQ(message("{}\n" + std::string(300000, 'x')), path_ + ":2: the line is longer than 1000 bytes");
}

TEST_F(JsonlTest, NamesAMissingFile) {
  const auto nothing = [](Json, int64_t) {};
  EXPECT_EQ(error_of([&] { read_jsonl(folder_.file("none"), nothing); }).code(), ErrorCode::kNotFound);
  EXPECT_EQ(message_of([&] { read_jsonl(folder_.path(), nothing); }),
            folder_.path() + ": cannot read: Is a directory");
}

TEST_F(JsonlTest, PassesOnWhatTheRowThrows) {
  write_file_atomically(path_, "{}\n{}\n");
  int rows = 0;
  EXPECT_EQ(message_of([&] {
              read_jsonl(path_, [&](Json, int64_t line) {
                ++rows;
                throw invalid("line {}", line);
              });
            }),
            "line 1");
  EXPECT_EQ(rows, 1);
}

}  // namespace
}  // namespace coppice
