#include "common/io/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/io/files.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string json(const std::string& text) {
  return parse_yaml(text, "f.yaml").dump();
}
std::string message(const std::string& text) {
  return message_of([&] { parse_yaml(text, "f.yaml"); });
}

TEST(YamlTest, ReadsAJobFile) {
  EXPECT_EQ(
      json("backbone: ../model\n"
           "jobs:\n"
           "  - name: tone\n"
           "    method: {peft_type: LORA, r: 8, target_modules: [q_proj, v_proj]}\n"
           "    train: {learning_rate: 2e-4, max_steps: 200, shuffle: true}   # a comment\n"
           "    priority:\n"
           "sweep: {over: {train.learning_rate: [1.0e-4, 3.0e-4]}}\n"),
      R"({"backbone":"../model","jobs":[{"name":"tone","method":{"peft_type":"LORA","r":8,"target_modules":["q_proj","v_proj"]},)"
      R"("train":{"learning_rate":0.0002,"max_steps":200,"shuffle":true},"priority":null}],)"
      R"("sweep":{"over":{"train.learning_rate":[0.0001,0.0003]}}})");
}

TEST(YamlTest, TypesPlainScalarsByTheCoreSchema) {
  EXPECT_EQ(json("[true, True, TRUE, false, False, FALSE]"), "[true,true,true,false,false,false]");
  EXPECT_EQ(json("[null, Null, NULL, ~, ]"), "[null,null,null,null]");
  EXPECT_EQ(json("[0, -0, 7, +7, -7, 007, 0o17, 0xfF, 9223372036854775807, -9223372036854775808, "
                 "18446744073709551615]"),
            "[0,0,7,7,-7,7,15,255,9223372036854775807,-9223372036854775808,18446744073709551615]");
  EXPECT_EQ(json("[1.5, -1.5, +1.5, 1., .5, -.5, 2e-4, 2E4, 1.0e-4, 1e5, 0.1]"),
            "[1.5,-1.5,1.5,1.0,0.5,-0.5,0.0002,20000.0,0.0001,100000.0,0.1]");
  EXPECT_EQ(
      json("[yes, no, on, off, y, n, tRUE, nULL, 1_000, 0b1, 1:30, e5, '.', 1e, 1e+, -, 0x, 0o8, --1, 1.2.3, "
           "0x-1, +0x1, 2024-01-01]"),
      R"(["yes","no","on","off","y","n","tRUE","nULL","1_000","0b1","1:30","e5",".","1e","1e+","-","0x","0o8","--1","1.2.3","0x-1","+0x1","2024-01-01"])");
  EXPECT_TRUE(parse_yaml("[1e5]", "f")[0].is_number_float());
  EXPECT_TRUE(parse_yaml("[100000]", "f")[0].is_number_integer());
}

TEST(YamlTest, KeepsQuotedAndBlockScalarsAsStrings) {
  EXPECT_EQ(json("['true', \"8\", '', \"~\", '1e5', \"a\\tb\"]"), R"(["true","8","","~","1e5","a\tb"])");
  EXPECT_EQ(json("a: |\n  1\n"), R"({"a":"1\n"})");
  EXPECT_EQ(json("a: >-\n  1\n"), R"({"a":"1"})");
}

TEST(YamlTest, FollowsExplicitTags) {
  EXPECT_EQ(json("[!!str 8, !!int '8', !!float 8, !!bool 'true', !!null '', ! 8, !!float 1e3]"),
            R"(["8",8,8.0,true,null,"8",1000.0])");
  EXPECT_EQ(json("!!map {a: !!seq [1]}"), R"({"a":[1]})");
  EXPECT_THAT(message("[!!int x]"), HasSubstr("tag \"!!int\" does not go with \"x\""));
  for (const char* text : {"!python/object x", "!!set {a}", "!!omap [a: 1]", "[!!binary aa]", "[!!int 1.5]",
                           "[!!bool yes]", "!x {}"}) {
    EXPECT_EQ(error_of([&] { parse_yaml(text, "f"); }).code(), ErrorCode::kInvalid) << text;
  }
}

TEST(YamlTest, KeysAreTextAsWritten) {
  EXPECT_EQ(json("{8: a, true: b, 'q r': c, 1.0: d}"), R"({"8":"a","true":"b","q r":"c","1.0":"d"})");
  EXPECT_THAT(message("? [a]\n: b\n"), HasSubstr("stands as a key"));
  EXPECT_THAT(message("{&x a: 1, *x : 2}"), HasSubstr("at a key"));
  EXPECT_THAT(message("{x: &x a, *x : 2}"), HasSubstr("stands as a key"));
  EXPECT_THAT(message("~: 1\n"), HasSubstr("key is empty"));
}

TEST(YamlTest, RefusesAKeyThatStandsTwice) {
  EXPECT_EQ(message("a: 1\nb:\n  c: 1\n  c: 2\n"), "f.yaml:4:3: key \"c\" stands twice in one mapping");
  EXPECT_THAT(message("{a: 1, 'a': 2}"), HasSubstr("stands twice"));
  EXPECT_EQ(json("[{a: 1}, {a: 1}]"), R"([{"a":1},{"a":1}])");
}

TEST(YamlTest, RepeatsAnchorsAndMerges) {
  EXPECT_EQ(json("a: &x [1, 2]\nb: *x\n"), R"({"a":[1,2],"b":[1,2]})");
  EXPECT_EQ(json("base: &b {r: 8, x: 1}\njob: {<<: *b, r: 4}\n"),
            R"({"base":{"r":8,"x":1},"job":{"r":4,"x":1}})");
  EXPECT_EQ(json("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc:\n  z: 3\n  <<: [*a, *b]\n"),
            R"({"a":{"x":1},"b":{"x":2,"y":2},"c":{"z":3,"x":1,"y":2}})");
  EXPECT_EQ(json("{'<<': 1}"), R"({"<<":1})");
  EXPECT_THAT(message("{<<: 8}"), HasSubstr("<< is 8; a mapping is accepted"));
  EXPECT_THAT(message("a: &x [*x]\n"), HasSubstr("inside the value that it names"));
  EXPECT_EQ(error_of([] { parse_yaml("a: *none", "f"); }).code(), ErrorCode::kInvalid);
}

TEST(YamlTest, BoundsWhatAnchorsMake) {
  std::string laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n";
  for (int i = 1; i < 12; ++i) {
    laughs += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) laughs += fmt::format("{}*a{}", j ? ", " : "", i - 1);
    laughs += "]\n";
  }
  EXPECT_THAT(message(laughs), HasSubstr("larger than 64 MiB"));
  std::string deep = "a0: &a0 [1]\n";
  for (int i = 1; i < 20; ++i)
    deep += fmt::format("a{}: &a{} {}*a{}{}\n", i, i, std::string(20, '['), i - 1, std::string(20, ']'));
  EXPECT_THAT(message(deep), HasSubstr("deeper than 256"));
}

TEST(YamlTest, BoundsDepth) {
  EXPECT_EQ(json(std::string(200, '[') + std::string(200, ']')),
            std::string(200, '[') + std::string(200, ']'));
  EXPECT_THAT(message(std::string(300, '[') + std::string(300, ']')), HasSubstr("deeper than 256"));
  EXPECT_EQ(error_of([] { parse_yaml(std::string(20000, '['), "f"); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([] { parse_yaml(std::string(20000, '{'), "f"); }).code(), ErrorCode::kInvalid);
}

TEST(YamlTest, RefusesNumbersThatDoNotFit) {
  EXPECT_EQ(message("a: 1\nb: 18446744073709551616"),
            "f.yaml:2:4: \"18446744073709551616\" does not fit 64 bits");
  EXPECT_THAT(message("[1e999]"), HasSubstr("out of a double's range"));
  EXPECT_THAT(message("[.inf]"), HasSubstr("a finite number"));
  EXPECT_THAT(message("[-.INF]"), HasSubstr("a finite number"));
  EXPECT_THAT(message("[.nan]"), HasSubstr("a finite number"));
}

TEST(YamlTest, RefusesWhatIsNotYaml) {
  for (const char* text :
       {"a: b: c", "[1, 2", "{a: 1", "a:\n\t- b", "'x", "\"\\q\"", "- a\nb: c\n", "%YAML 9\n--- a", "a: \xff",
        "a: \xc0\xaf", "a: \xed\xa0\x80", "a: \x01", "a: \x7f",
        "\xff\xfe"
        "a",
        "@a", "`a`", "a: &", "a: *", "]"}) {
    EXPECT_EQ(error_of([&] { parse_yaml(text, "f"); }).code(), ErrorCode::kInvalid) << text;
  }
  EXPECT_THAT(message("ok: 1\nbad: é\xff"), StartsWith("f.yaml:2:"));
}

TEST(YamlTest, TakesOneDocument) {
  EXPECT_EQ(json(""), "null");
  EXPECT_EQ(json("# nothing\n"), "null");
  EXPECT_EQ(json("---\na: 1\n...\n"), R"({"a":1})");
  EXPECT_EQ(json("\xef\xbb\xbf"
                 "a: 1"),
            R"({"a":1})");
  EXPECT_EQ(message("a: 1\n---\nb: 2\n"), "f.yaml: holds several documents; one is accepted");
}

TEST(YamlTest, ReadsFiles) {
  const TestFolder folder;
  write_file_atomically(folder.file("a.yaml"), "a: [1");
  EXPECT_THAT(message_of([&] { read_yaml_file(folder.file("a.yaml")); }),
              StartsWith(folder.file("a.yaml") + ":1:"));
  EXPECT_EQ(error_of([&] { read_yaml_file(folder.file("none")); }).code(), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace coppice
