#include "common/text/unicode.h"

#include <gtest/gtest.h>

namespace coppice {
namespace {

TEST(Utf8Test, GoodTextStaysAsItIs) {
  for (const std::string text : {"", "abc", "é中😀", "\xf4\x8f\xbf\xbf", "\xef\xbf\xbd"})
    EXPECT_EQ(valid_utf8(text), text);
}

TEST(Utf8Test, EachMaximalBadPartBecomesOneReplacement) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(valid_utf8("\xff"), r);
  EXPECT_EQ(valid_utf8("a\xc3"), "a" + r);
  EXPECT_EQ(valid_utf8("\xe2\x82z"), r + "z");  // a cut sequence is one part
  EXPECT_EQ(valid_utf8("\xf0\x9f\x98\xff"), r + r);
  EXPECT_EQ(valid_utf8("\xc0\xaf"), r + r);                  // overlong: neither byte begins anything
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), r + r + r + r);  // above U+10FFFF
  EXPECT_EQ(valid_utf8("\x80\xc3\xa9"), r + "é");
}

TEST(UnicodeTest, CharactersGoInAndOutOfText) {
  for (const char32_t c : {U'a', U'\u07ff', U'\u0800', U'\uffff', U'\U00010000', U'\U0010ffff'}) {
    std::string text = "x";
    append_char(text, c);
    size_t at = 1;
    EXPECT_EQ(next_char(text, at), c);
    EXPECT_EQ(at, text.size());
    EXPECT_EQ(char_bytes(text[1]), text.size() - 1);
  }
}

TEST(UnicodeTest, ClassesKnowCharactersOfUnicode16) {
  EXPECT_TRUE(is_word(U'\u1c89'));      // CYRILLIC CAPITAL LETTER TJE, Unicode 16
  EXPECT_TRUE(is_word(U'\U0002ebf0'));  // CJK extension I, Unicode 15.1
  EXPECT_TRUE(is_numeric(U'\U00010d40'));
  EXPECT_NE(property_set("L").find("\\x{1c89}"), std::string::npos);
  EXPECT_EQ(property_set("N").find("\\x{1c89}"), std::string::npos);
}

TEST(UnicodeTest, WordsDigitsAndSpaces) {
  for (const char32_t c : {U'a', U'_', U'7', U'é', U'\u0301', U'\u200d', U'中'}) EXPECT_TRUE(is_word(c));
  for (const char32_t c : {U' ', U'-', U'½', U'😀', U'\u2581'}) EXPECT_FALSE(is_word(c));
  for (const char32_t c : {U'7', U'½', U'Ⅷ', U'\u0663'}) EXPECT_TRUE(is_numeric(c));
  EXPECT_FALSE(is_numeric(U'四'));
  for (const char32_t c : {U' ', U'\u000b', U'\u0085', U'\u00a0', U'\u3000'}) EXPECT_TRUE(is_white_space(c));
  for (const char32_t c : {U'\u001c', U'\u200b', U'\u180e', U'\ufeff'}) EXPECT_FALSE(is_white_space(c));
}

TEST(UnicodeTest, AdditionsAreInOrder) {
  char32_t last = 0;
  for (const auto& range : added_characters()) {
    EXPECT_GT(range.first, last);
    EXPECT_GE(range.last, range.first);
    last = range.last;
  }
}

TEST(UnicodeTest, UnknownPropertyIsEmpty) {
  EXPECT_EQ(property_set("Klingon"), "");
  EXPECT_EQ(property_set(""), "");
}

}  // namespace
}  // namespace coppice
