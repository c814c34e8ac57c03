#include "common/text/pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/text/regex_syntax.h"

namespace coppice {
namespace {

// The parts of text, matches in brackets.
std::string cut(const std::string& expression, const std::string& text) {
  const Pattern pattern = Pattern::from_regex(expression, "test");
  std::vector<Pattern::Part> parts;
  pattern.cut(text, parts);
  std::string shown;
  for (const auto& part : parts) {
    const std::string piece = text.substr(part.begin, part.end - part.begin);
    shown += part.match ? "[" + piece + "]" : piece;
  }
  return shown;
}

std::string error_of(const std::string& expression) {
  try {
    Pattern::from_regex(expression, "file: split");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PatternTest, CutsWordsAsTheExpressionsOfLlama3Do) {
  const std::string llama3 =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(cut(llama3, "We'VE 12345 é中  x!\r\n y"), "[We]['VE][ ][123][45][ é中][ ][ x][!\r\n][ y]");
  EXPECT_EQ(cut(llama3, "a   "), "[a][   ]");
  EXPECT_EQ(cut(llama3, "it'\u017f"), "[it]['\u017f]");  // LATIN SMALL LETTER LONG S folds to s
}

TEST(PatternTest, OffsetsAreBytesBehindCharactersOfEveryLength) {
  EXPECT_EQ(cut("b", "ab é b 中b😀b"), "a[b] é [b] 中[b]😀[b]");
}

TEST(PatternTest, EmptyMatchesAreKeptButNotBehindAMatch) {
  EXPECT_EQ(cut("b*", "abba"), "[]a[bb]a[]");
  EXPECT_EQ(cut("(?=b)", "abab"), "a[]ba[]b");
}

TEST(PatternTest, DotAndSpaceMeanWhatOnigurumaMeans) {
  EXPECT_EQ(cut(".", "\r\n\u2028"), "[\r]\n[\u2028]");
  EXPECT_EQ(cut(R"(\s)", "\u000b\u0085x\u001c"), "[\u000b][\u0085]x\u001c");
  EXPECT_EQ(cut(R"(\w)", "a²-_"), "[a][²]-[_]");
}

TEST(PatternTest, ClassesNestAndIntersect) {
  EXPECT_EQ(cut(R"([\w&&[^\d_]]+)", "ab1_c"), "[ab]1_[c]");
  EXPECT_EQ(cut(R"([^[a-c]\p{N}-])", "ad1-"), "a[d]1-");
  EXPECT_EQ(cut(R"([a\-\]]+)", "b-]a"), "b[-]a]");
  EXPECT_EQ(cut(R"(\p{^L})", "a1"), "a[1]");
}

TEST(PatternTest, BracesAreIntervals) {
  EXPECT_EQ(cut("a{2}", "aaaaa"), "[aa][aa]a");
  EXPECT_EQ(cut("a{,2}b", "aaab"), "a[aab]");
  EXPECT_EQ(cut("a{3,}", "aaaaabaa"), "[aaaaa]baa");
}

TEST(PatternTest, LongTextNeedsNoMoreThanItsMemory) {
  const std::string text(1'000'000, 'a');
  EXPECT_EQ(cut(R"(\p{L}+)", text), "[" + text + "]");
}

TEST(PatternTest, RefusesByNameWhatHasNoSureCounterpart) {
  for (const auto& [expression, construct] : std::vector<std::pair<std::string, std::string>>{
           {"^a", "an anchor of lines"},     {"a$", "an anchor of lines"},
           {R"(\bx)", "the escape \\b"},     {R"(\h)", "the escape \\h"},
           {R"((a)\1)", "the escape \\1"},   {R"(\p{Klingon})", "\"Klingon\""},
           {"(?<n>a)", "kind of group"},     {"(?m:a)", "kind of group"},
           {"a{1,2}+", "after an interval"}, {"a**", "quantifier of a"},
           {"[[:alpha:]]", "a POSIX class"}, {"(?i:[ab])", "class inside (?i:"},
           {"+a", "without something"},      {R"([a-\d])", "- before a set"},
           {R"(\xff)", "not ASCII"},         {"a{x}", "begins no interval"},
           {"(?=a)+", "after an assertion"}, {"[]a]", "] that begins"},
           {"a{1001}", "above 1000"},        {"(?i)a", "kind of group"},
           {"[a&&]", "empty side"}}) {
    EXPECT_THAT(error_of(expression),
                testing::AllOf(testing::StartsWith("file: split: "), testing::HasSubstr(construct)))
        << expression;
  }
}

TEST(PatternTest, RefusesWhatIsNoExpression) {
  for (const std::string expression :
       {"(a", "a)", "[a", "[z-a]", "\\", R"(\p{L)", R"(\u12)", R"(\x{110000})", R"(\x{d800})", "(?<=a+)b"}) {
    EXPECT_THAT(error_of(expression), testing::StartsWith("file: split")) << expression;
  }
}

TEST(PatternTest, NestingHasABound) {
  EXPECT_THAT(error_of(std::string(100'000, '(')), testing::HasSubstr("nesting deeper"));
  EXPECT_THAT(error_of(std::string(100'000, '[')), testing::HasSubstr("nesting deeper"));
}

TEST(PatternTest, FixedTextHasNoSpecialCharacters) {
  const Pattern pattern = Pattern::from_json(Json{{"String", "a.*"}}, "test");
  std::vector<Pattern::Part> parts;
  pattern.cut("xa.*ab", parts);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_TRUE(parts[1].match);
  EXPECT_EQ(parts[1].begin, 1u);
  EXPECT_EQ(parts[1].end, 4u);
}

TEST(PatternTest, JsonIsAStringOrARegex) {
  for (const Json& json : {Json("a"), Json::object(), Json{{"String", ""}}, Json{{"String", 1}},
                           Json{{"Glob", "a"}}, Json{{"String", "a"}, {"Regex", "a"}}}) {
    EXPECT_THROW(Pattern::from_json(json, "test"), Error) << json;
  }
}

}  // namespace
}  // namespace coppice
