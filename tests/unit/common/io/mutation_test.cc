// Whatever the bytes are, the parsers of text give a value or an Error of one line.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>

#include "common/io/json.h"
#include "common/io/yaml.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

void mutate_and_parse(const std::string& valid, const std::function<Json(const std::string&)>& parse) {
  const char* given = std::getenv("COPPICE_TEST_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("COPPICE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const std::string tokens[] = {
      "[",    "]",     "{",   "}",   ",",  "\"",     "'",    ":",    ": ", "\n",
      "\n  ", "- ",    "&a ", "*a",  "<<", "!!str ", "? ",   "|\n",  ">",  "#",
      "%",    "---\n", "\\",  "1e9", "-",  "0x",     "\xff", "\xc3", "é",  std::string(1, '\0'),
      "\t",   "\\u00"};
  int parsed = 0, refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text = valid;
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      const size_t at = random() % text.size();
      switch (random() % 5) {
        case 0:
          text[at] = char(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 6);
          break;
        case 2:
          text.insert(at, tokens[random() % std::size(tokens)]);
          break;
        case 3:
          text.replace(at, 1, tokens[random() % std::size(tokens)]);
          break;
        case 4:
          text.insert(at, text.substr(random() % text.size(), random() % 40));
          break;
      }
      if (text.empty()) text = "x";
    }
    try {
      const Json value = parse(text);
      // What was accepted is whole: it can be written and read again.
      ASSERT_EQ(parse_json(value.dump(), "again"), value) << text;
      ++parsed;
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kInvalid);
      ASSERT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(parsed, 10);
  EXPECT_GT(refused, 10);
}

TEST(MutationTest, JsonIsReadOrRefused) {
  mutate_and_parse(
      R"({"a": [1, -2.5e3, true, null, "é\u00e9\n"], "b": {"c": {}, "d": [[]]}, "e": 18446744073709551615})",
      [](const std::string& text) { return parse_json(text, "f"); });
}

TEST(MutationTest, YamlIsReadOrRefused) {
  mutate_and_parse(
      "base: &b {r: 8, x: 'q'}\njobs:\n  - name: tone # c\n    method: {<<: *b, t: [q, \"v\"]}\n    text: "
      "|\n      a\n      b\n  - 2e-4\n",
      [](const std::string& text) { return parse_yaml(text, "f"); });
}

}  // namespace
}  // namespace coppice
