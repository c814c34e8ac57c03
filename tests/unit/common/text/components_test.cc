// Normalizers, pre-tokenizers, post-processors and decoders, one by one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/text/decoder.h"
#include "common/text/normalizer.h"
#include "common/text/post_processor.h"
#include "common/text/pre_tokenizer.h"

namespace coppice {
namespace {

using testing::ElementsAre;

Json json(const std::string& text) {
  return parse_json(text, "test");
}

std::string normalized(const std::string& component, std::string text) {
  size_t first = 0;
  Normalizer::from_json(json(component), "test")->apply(text, first);
  return text;
}

std::vector<std::string> words(const std::string& component, const std::string& text) {
  Pieces pieces{text, {{0, text.size(), 1}}};
  PreTokenizer::from_json(json(component), "test")->apply(pieces);
  std::vector<std::string> result;
  for (const auto& piece : pieces.list) result.emplace_back(pieces.view(piece));
  return result;
}

std::vector<std::string> decoded(const std::string& component, std::vector<std::string> tokens) {
  Decoder::from_json(json(component), "test")->apply(tokens);
  return tokens;
}

template <typename Make>
std::string error_of(Make make) {
  try {
    make();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(NormalizerTest, FormsAreThoseOfUnicode9) {
  EXPECT_EQ(normalized(R"({"type": "NFC"})", "e\u0301"), "é");
  EXPECT_EQ(normalized(R"({"type": "NFD"})", "é"), "e\u0301");
  EXPECT_EQ(normalized(R"({"type": "NFKC"})", "ﬁ①"), "fi1");
  EXPECT_EQ(normalized(R"({"type": "NFKD"})", "ﬁé"), "fie\u0301");
  EXPECT_EQ(normalized(R"({"type": "NFKC"})", "\u32ff"),
            "\u32ff");  // SQUARE ERA NAME REIWA came with Unicode 12.1
}

TEST(NormalizerTest, PrependLeavesEmptyTextAlone) {
  EXPECT_EQ(normalized(R"({"type": "Prepend", "prepend": "▁"})", "a"), "▁a");
  EXPECT_EQ(normalized(R"({"type": "Prepend", "prepend": "▁"})", ""), "");
}

TEST(NormalizerTest, ReplaceTakesTextsAndExpressions) {
  EXPECT_EQ(normalized(R"({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})", " a  b"),
            "▁a▁▁b");
  EXPECT_EQ(normalized(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "-"})", "a   b c"),
            "a-b c");
}

TEST(NormalizerTest, StripTakesUnicodeSpace) {
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": true, "strip_right": true})", "\u3000 aé \u0085"),
            "aé");
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": false, "strip_right": true})", " é "), " é");
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": true, "strip_right": true})", " \u3000"), "");
}

TEST(NormalizerTest, KeepsTrackOfTheFirstCharacter) {
  const auto sequence = Normalizer::from_json(json(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "bb"}]})"),
                                              "test");
  std::string text = "aa";
  size_t first = 1;
  sequence->apply(text, first);
  EXPECT_EQ(text, "▁bbbb");
  EXPECT_EQ(first, 5u);
}

TEST(PreTokenizerTest, SplitBehaviours) {
  const auto split = [](const std::string& behavior, const char* invert = "false") {
    return words(R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior +
                     R"(", "invert": )" + invert + "}",
                 "the-final--countdown");
  };
  EXPECT_THAT(split("Removed"), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(split("Isolated"), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithPrevious"), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(split("MergedWithNext"), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(split("Contiguous"), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(split("Removed", "true"), ElementsAre("-", "-", "-"));
}

TEST(PreTokenizerTest, ByteLevelWritesBytesAsCharacters) {
  EXPECT_THAT(words(R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true})", "é b's\n"),
              ElementsAre("ĠÃ©", "Ġb", "'s", "Ċ"));
  EXPECT_THAT(words(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})", " a"),
              ElementsAre("Ġa"));
}

TEST(PreTokenizerTest, MetaspaceSchemes) {
  const auto metaspace = [](const std::string& more, const std::string& text) {
    return words(R"({"type": "Metaspace", "replacement": "▁", )" + more + "}", text);
  };
  EXPECT_THAT(metaspace(R"("prepend_scheme": "always")", "a b"), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(metaspace(R"("prepend_scheme": "always")", " a"), ElementsAre("▁a"));
  EXPECT_THAT(metaspace(R"("prepend_scheme": "never", "split": false)", "a b"), ElementsAre("a▁b"));
  EXPECT_THAT(metaspace(R"("add_prefix_space": true, "str_rep": "▁")", "a b"), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(words(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"String": "."}, "behavior": "Removed", "invert": false},
      {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": true}]})",
                    "a.b c"),
              ElementsAre("▁a", "b", "▁c"));
}

TEST(PreTokenizerTest, Digits) {
  EXPECT_THAT(words(R"({"type": "Digits", "individual_digits": true})", "a12½"),
              ElementsAre("a", "1", "2", "½"));
  EXPECT_THAT(words(R"({"type": "Digits", "individual_digits": false})", "a12b"),
              ElementsAre("a", "12", "b"));
}

TEST(PostProcessorTest, TemplatesAddTheirTokens) {
  const auto processor = PostProcessor::from_json(json(R"({"type": "Sequence", "processors": [
      {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
      {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "E", "type_id": 0}}], "pair": [],
       "special_tokens": {"B": {"id": "B", "ids": [7, 8], "tokens": ["B", "C"]}, "E": {"id": "E", "ids": [9], "tokens": ["E"]}}}]})"),
                                                  "test");
  std::vector<int32_t> ids = {1, 2};
  processor.apply(ids, true);
  EXPECT_THAT(ids, ElementsAre(7, 8, 1, 2, 9));
  ids = {1};
  processor.apply(ids, false);
  EXPECT_THAT(ids, ElementsAre(1));
}

TEST(DecoderTest, ByteLevelJoinsBytesAcrossTokens) {
  EXPECT_THAT(decoded(R"({"type": "ByteLevel"})", {"ĠÃ", "©", "<é 中>"}), ElementsAre(" é<é 中>"));
  EXPECT_THAT(decoded(R"({"type": "ByteLevel"})", {"Ã", "a"}), ElementsAre("\xef\xbf\xbd"
                                                                           "a"));
}

TEST(DecoderTest, ByteFallbackGivesOneReplacementAByte) {
  EXPECT_THAT(decoded(R"({"type": "ByteFallback"})", {"<0xC3>", "<0xA9>", "x"}), ElementsAre("é", "x"));
  EXPECT_THAT(decoded(R"({"type": "ByteFallback"})", {"<0xC3>", "<0x41>", "<0xZZ>"}),
              ElementsAre("\xef\xbf\xbd", "\xef\xbf\xbd", "<0xZZ>"));
}

TEST(DecoderTest, MetaspaceStripFuseAndReplace) {
  EXPECT_THAT(decoded(R"({"type": "Metaspace", "replacement": "▁"})", {"▁a▁", "▁b"}), ElementsAre("a", " b"));
  EXPECT_THAT(decoded(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", {"▁a"}),
              ElementsAre(" a"));
  EXPECT_THAT(decoded(R"({"type": "Strip", "content": " ", "start": 1, "stop": 2})", {"  a ", ""}),
              ElementsAre(" a", ""));
  EXPECT_THAT(decoded(R"({"type": "Fuse"})", {"a", "b"}), ElementsAre("ab"));
  EXPECT_THAT(decoded(R"({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})", {"▁a"}),
              ElementsAre(" a"));
}

TEST(ComponentTest, WhatIsNotBuiltIsRefusedByName) {
  using testing::AllOf, testing::HasSubstr, testing::StartsWith;
  for (const char* type :
       {"Lowercase", "StripAccents", "Nmt", "Precompiled", "BertNormalizer", "ByteLevel", "x"}) {
    EXPECT_THAT(error_of([&] {
                  Normalizer::from_json(Json{{"type", type}}, "f: normalizer");
                }),
                AllOf(StartsWith("f: normalizer.type is "), HasSubstr(type), HasSubstr("NFC")));
  }
  for (const char* type : {"Whitespace", "Punctuation", "BertPreTokenizer", "UnicodeScripts"}) {
    EXPECT_THAT(error_of([&] {
                  PreTokenizer::from_json(Json{{"type", type}}, "f: pre_tokenizer");
                }),
                AllOf(StartsWith("f: pre_tokenizer.type is "), HasSubstr(type), HasSubstr("Metaspace")));
  }
  EXPECT_THAT(error_of([] { PostProcessor::from_json(json(R"({"type": "BertProcessing"})"), "f"); }),
              HasSubstr("BertProcessing"));
  EXPECT_THAT(error_of([] { Decoder::from_json(json(R"({"type": "WordPiece"})"), "f"); }),
              HasSubstr("WordPiece"));
  EXPECT_THAT(error_of([] {
                Normalizer::from_json(
                    json(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})"), "f");
              }),
              StartsWith("f.normalizers[1].type is \"Nmt\""));
}

TEST(ComponentTest, KeysAreReadInFull) {
  using testing::HasSubstr;
  EXPECT_THAT(error_of([] { Normalizer::from_json(json(R"({"type": "NFC", "strict": true})"), "f"); }),
              HasSubstr("strict"));
  EXPECT_THAT(error_of([] { Normalizer::from_json(json(R"({"type": "Prepend"})"), "f"); }),
              HasSubstr("f.prepend is missing"));
  EXPECT_THAT(
      error_of([] { PreTokenizer::from_json(json(R"({"type": "Metaspace", "replacement": "ab"})"), "f"); }),
      HasSubstr("one character"));
  EXPECT_THAT(error_of([] {
                PreTokenizer::from_json(
                    json(R"({"type": "Metaspace", "replacement": "▁", "add_prefix_space": false})"), "f");
              }),
              HasSubstr("add_prefix_space"));
  EXPECT_THAT(error_of([] {
                PostProcessor::from_json(
                    json(R"({"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                    "single": [{"SpecialToken": {"id": "B", "type_id": 0}}]})"),
                    "f");
              }),
              HasSubstr("lacks \"B\""));
}

}  // namespace
}  // namespace coppice
