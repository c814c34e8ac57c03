#include "common/io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/io/files.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message(std::string_view text) {
  return message_of([&] { parse_json(text, "f.json"); });
}

TEST(JsonTest, KeepsValuesAndTheOrderOfKeys) {
  const Json json = parse_json(
      R"( {"b": [1, -2, 3.5, 18446744073709551615], "a": {"x": null, "é\u00e9": true}, "c": ""} )", "f");
  std::vector<std::string> keys;
  for (const auto& item : json.items()) keys.push_back(item.key());
  EXPECT_EQ(keys, (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(json["b"], Json::parse("[1, -2, 3.5, 18446744073709551615]"));
  EXPECT_TRUE(json["a"]["x"].is_null());
  EXPECT_EQ(json["a"]["éé"], true);
  EXPECT_EQ(json["c"], "");
  EXPECT_EQ(parse_json("7", "f"), 7);
}

TEST(JsonTest, AgreesWithTheLibraryOnNestedValues) {
  const std::string text = R"([[], {}, [[1], {"a": [{"b": {}}]}], {"a": {"a": {"a": "a"}}}, [[[]]]])";
  EXPECT_EQ(parse_json(text, "f").dump(), Json::parse(text).dump());
}

TEST(JsonTest, NamesFileLineAndColumn) {
  EXPECT_EQ(message("{\n  \"a\": tru}"), "f.json:2:11: invalid literal");
  EXPECT_THAT(message("[1, 2"), StartsWith("f.json:1:5: unexpected end of input"));
  EXPECT_THAT(message_of([] { parse_json("\n[,", "f", 41); }), StartsWith("f:42:2: "));
}

TEST(JsonTest, RefusesAKeyThatStandsTwice) {
  EXPECT_EQ(message(R"({"a": 1, "b": 2, "a": 3})"), R"(f.json:1:20: key "a" stands twice in one object)");
  EXPECT_THAT(message(R"({"x": [{"a": 1, "\u0061": 2}]})"), HasSubstr("\"a\" stands twice"));
  EXPECT_NO_THROW(parse_json(R"([{"a": {"a": 1}}, {"a": 1}])", "f"));
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "}",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":1,}",
                           "{a: 1}",
                           "[1] [2]",
                           "1 1",
                           "'a'",
                           "nan",
                           "NaN",
                           "Infinity",
                           "01",
                           "+1",
                           "1e999",
                           "-1e999",
                           "[1 2]",
                           "\"a",
                           "\"\\x\"",
                           "\"\\ud800\"",
                           "\"\t\"",
                           "// c\n1",
                           "\"\xff\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "\xff\xfe{\x00}\x00",
                           "[\"\xe2\x82\"]"}) {
    EXPECT_EQ(error_of([&] { parse_json(text, "f"); }).code(), ErrorCode::kInvalid) << text;
  }
  EXPECT_THROW(parse_json(std::string_view("1\0", 2), "f"), Error);
}

TEST(JsonTest, BoundsDepth) {
  EXPECT_NO_THROW(parse_json(std::string(256, '[') + std::string(256, ']'), "f"));
  EXPECT_THAT(message(std::string(257, '[') + std::string(257, ']')), HasSubstr("deeper than 256"));
  EXPECT_THAT(message(std::string(1 << 20, '[')), HasSubstr("deeper than 256"));
  std::string objects;
  for (int i = 0; i < 300; ++i) objects += "{\"a\":";
  EXPECT_THAT(message(objects), HasSubstr("deeper than 256"));
}

TEST(JsonTest, KeepsMessagesShortWhateverTheText) {
  const std::string huge(1 << 20, 'x');
  message("\"" + huge + "\n");
  message("{\"" + huge + "\": 1, \"" + huge + "\": 2}");
}

TEST(JsonTest, ReadsLargeObjectsInLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 100000; ++i)
    text += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":" + std::to_string(i);
  const Json json = parse_json(text + "}", "f");
  EXPECT_EQ(json.size(), 100000u);
}

TEST(JsonTest, ReadsFilesAndNamesThem) {
  const TestFolder folder;
  write_file_atomically(folder.file("a.json"), R"({"a": 1})");
  EXPECT_EQ(read_json_file(folder.file("a.json"))["a"], 1);
  EXPECT_EQ(error_of([&] { read_json_file(folder.file("b.json")); }).code(), ErrorCode::kNotFound);
  write_file_atomically(folder.file("c.json"), "");
  EXPECT_THAT(message_of([&] { read_json_file(folder.file("c.json")); }),
              StartsWith(folder.file("c.json") + ":1:1: "));
}

TEST(JsonTest, ShowsValuesShortlyAndOnOneLine) {
  EXPECT_EQ(shown(Json("a\nb")), R"("a\nb")");
  EXPECT_EQ(shown(Json(2.5)), "2.5");
  EXPECT_EQ(shown(Json::parse("[1, null]")), "[1,null]");
  EXPECT_EQ(shown(std::string_view("\xff")), "\"\xef\xbf\xbd\"");
  EXPECT_LT(shown(Json(std::string(100000, 'a'))).size(), 140u);
  EXPECT_EQ(shown(Json(std::vector<int>(1000, 1))), "a list of 1000 values");
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "é";
  EXPECT_EQ(shown(std::string_view("a" + accents)).find("\xef\xbf\xbd"), std::string::npos)
      << "cut inside a character";
}

}  // namespace
}  // namespace coppice
