#include "common/text/tokenizer.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "tests/unit/common/text/small_tokenizer.h"

namespace coppice {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::vector<int32_t> ids_of(const Tokenizer& tokenizer, const std::vector<std::string>& tokens) {
  std::vector<int32_t> ids;
  for (const std::string& token : tokens) ids.push_back(tokenizer.id_of(token).value_or(-1));
  return ids;
}

void expect_tokens(const Tokenizer& tokenizer, const std::string& text,
                   const std::vector<std::string>& tokens) {
  EXPECT_EQ(tokenizer.encode(text, false), ids_of(tokenizer, tokens)) << text;
}

std::string error_of(const Json& document) {
  try {
    load(document);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

Json added(const std::string& content, int id, const std::vector<std::string>& properties) {
  Json token = {{"id", id}, {"content", content}};
  for (const char* key : {"single_word", "lstrip", "rstrip", "normalized", "special"}) token[key] = false;
  for (const std::string& property : properties) token[property] = true;
  return token;
}

TEST(TokenizerTest, JoinsByRankFromTheLeft) {
  const Tokenizer tokenizer = load(small_byte_level());
  expect_tokens(tokenizer, "abc", {"a", "bc"});  // b c comes before a b
  expect_tokens(tokenizer, "abab ab", {"ab", "ab", "Ġab"});
  expect_tokens(tokenizer, "cdcd", {"cd", "cd"});
  expect_tokens(tokenizer, "é1212.", {"Ã©", "1", "2", "1", "2", "."});
  expect_tokens(tokenizer, "e\u0301", {"Ã©"});  // e is no token: the normal form counts
}

TEST(TokenizerTest, LongWordsJoinAsShortOnesDo) {
  const Tokenizer tokenizer = load(small_byte_level());
  std::string text;
  std::vector<std::string> tokens;
  for (int i = 0; i < 500; ++i) {
    text += "abcdab";
    tokens.insert(tokens.end(), {"a", "bc", "d", "ab"});
  }
  expect_tokens(tokenizer, text, tokens);
}

TEST(TokenizerTest, AMillionLettersTakeNoSquareOfTime) {
  Json document = small_byte_level();
  document["model"]["vocab"]["aa"] = 100;
  document["model"]["vocab"]["aaaa"] = 101;
  document["model"]["merges"] = {"a a", "aa aa"};
  const Tokenizer tokenizer = load(document);
  EXPECT_EQ(tokenizer.encode(std::string(1'000'003, 'a'), false).size(), 250'000u + 2);
}

TEST(TokenizerTest, SpecialTokensAreAddedOnRequest) {
  const Tokenizer tokenizer = load(small_byte_level());
  EXPECT_THAT(tokenizer.encode("a"), ElementsAre(0, tokenizer.id_of("a").value()));
  EXPECT_THAT(tokenizer.encode("a", false), ElementsAre(tokenizer.id_of("a").value()));
  EXPECT_THAT(tokenizer.encode(""), ElementsAre(0));
  EXPECT_THAT(tokenizer.encode("", false), IsEmpty());
  EXPECT_THAT(tokenizer.encode("</s>a</s>", false), ElementsAre(1, tokenizer.id_of("a").value(), 1));
}

TEST(TokenizerTest, BothWritingsOfMergesMeanTheSame) {
  Json document = small_byte_level();
  const Tokenizer first = load(document);
  Json lists = Json::array();
  for (const Json& merge : document["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    lists.push_back({text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)});
  }
  document["model"]["merges"] = lists;
  const Tokenizer second = load(document);
  for (const char* text : {"abcabcd ab", "é  1ab'c"}) EXPECT_EQ(first.encode(text), second.encode(text));
}

TEST(TokenizerTest, ByteFallbackStandsForWhatTheVocabularyLacks) {
  const Tokenizer tokenizer = load(small_byte_fallback());
  expect_tokens(tokenizer, "ab a", {"▁ab", "▁a"});
  expect_tokens(tokenizer, "é", {"▁", "<0xC3>", "<0xA9>"});
  expect_tokens(tokenizer, "中x", {"▁", "<unk>"});  // bytes without tokens: one unknown for the row
  expect_tokens(tokenizer, "中éa", {"▁", "<0xC3>", "<0xA9>", "<unk>", "a"});  // bytes overtake it
  expect_tokens(tokenizer, "   a", {"▁▁▁▁", "a"});
  expect_tokens(tokenizer, "  a", {"▁▁", "▁a"});
}

TEST(TokenizerTest, UnknownsStayApartOrVanishAsTheModelSays) {
  Json document = small_byte_fallback();
  document["model"]["fuse_unk"] = false;
  expect_tokens(load(document), "中x", {"▁", "<unk>", "<unk>"});
  document["model"]["unk_token"] = nullptr;
  expect_tokens(load(document), "中xa", {"▁a"});
  document["model"]["unk_token"] = "<nowhere>";
  EXPECT_THROW(load(document).encode("中"), Error);
}

TEST(TokenizerTest, IgnoreMergesTakesWholeWords) {
  Json document = small_byte_level();
  expect_tokens(load(document), "abc", {"a", "bc"});
  document["model"]["ignore_merges"] = true;
  expect_tokens(load(document), "abc", {"abc"});
}

TEST(TokenizerTest, AddedTokensHonourTheirProperties) {
  Json document = small_byte_level();
  Json& tokens = document["added_tokens"];
  tokens.push_back(added("[w]", 23, {"single_word"}));
  tokens.push_back(added("[l]", 24, {"lstrip"}));
  tokens.push_back(added("[r]", 25, {"rstrip"}));
  tokens.push_back(added("[r][r]", 26, {}));
  tokens.push_back(added("dé", 27, {"normalized"}));
  tokens.push_back(added("ce\u0301", 28, {}));
  const Tokenizer tokenizer = load(document);
  EXPECT_EQ(tokenizer.vocabulary_size(), 29);
  expect_tokens(tokenizer, "[w]", {"[w]"});
  expect_tokens(tokenizer, ".[w] .[w]", {".", "[w]", "Ġ", ".", "[w]"});
  EXPECT_THAT(tokenizer.encode("a[w]", false), testing::Not(testing::Contains(23)));
  EXPECT_THAT(tokenizer.encode("[w]中", false), testing::Not(testing::Contains(23)));
  expect_tokens(tokenizer, "a \u3000[l] a", {"a", "[l]", "Ġ", "a"});
  expect_tokens(tokenizer, "a [r]\u00a0 a", {"a", "Ġ", "[r]", "a"});
  expect_tokens(tokenizer, "[r][r][r]", {"[r][r]", "[r]"});
  expect_tokens(tokenizer, "de\u0301", {"dé"});  // in the normal form
  expect_tokens(tokenizer, "cé", {"c", "Ã©"});   // in the raw text alone
  expect_tokens(tokenizer, "ce\u0301", {"ce\u0301"});
}

TEST(TokenizerTest, OverlapOfStrippedSpaceAndATokenOfSpacesStaysInBounds) {
  Json document = small_byte_level();
  document["added_tokens"].push_back(added("[r]", 23, {"rstrip"}));
  document["added_tokens"].push_back(added("  ", 24, {"lstrip", "rstrip"}));
  const Tokenizer tokenizer = load(document);
  for (const char* text : {"[r]     a", "[r]  ", "  [r]  [r]   ", "     "}) tokenizer.encode(text);
  expect_tokens(tokenizer, "[r]  a", {"[r]", "  ", "a"});
}

TEST(TokenizerTest, DecodesWhatItEncoded) {
  const Tokenizer bytes = load(small_byte_level());
  for (const std::string text : {"", "ab abc é", " a", "1.'s\n"})
    EXPECT_EQ(bytes.decode(bytes.encode(text)), text);
  const Tokenizer fallback = load(small_byte_fallback());
  for (const std::string text : {"", "ab a", " a", "é"})
    EXPECT_EQ(fallback.decode(fallback.encode(text)), text);
}

TEST(TokenizerTest, DecodeShowsSpecialTokensOnRequestAndSkipsUnknownIds) {
  const Tokenizer tokenizer = load(small_byte_level());
  std::vector<int32_t> ids = tokenizer.encode("a</s>");
  EXPECT_EQ(tokenizer.decode(ids), "a");
  EXPECT_EQ(tokenizer.decode(ids, false), "<s>a</s>");
  ids.insert(ids.end(), {-1, 1000, 2147483647});
  EXPECT_EQ(tokenizer.decode(ids), "a");
}

TEST(TokenizerTest, WithoutADecoderTokensStandApart) {
  Json document = small_byte_level();
  document["decoder"] = nullptr;
  const Tokenizer tokenizer = load(document);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("cdab")), "cd ab");
}

TEST(TokenizerTest, BadUtf8IsReplacedNotRefused) {
  const Tokenizer tokenizer = load(small_byte_fallback());
  EXPECT_EQ(tokenizer.encode("a\xff"
                             "b"),
            tokenizer.encode("a\xef\xbf\xbd"
                             "b"));
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const Tokenizer tokenizer = load(small_byte_level());
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i)
    texts.push_back("abc" + std::string(size_t(i % 40), 'd') + " ab" + std::to_string(i % 12));
  std::vector<std::vector<int32_t>> expected;
  const Tokenizer fresh = load(small_byte_level());
  for (const std::string& text : texts) expected.push_back(fresh.encode(text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) wrong[t] += tokenizer.encode(texts[i]) != expected[i];
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

TEST(TokenizerTest, ConfigNamesTheSpecialTokens) {
  const BackboneFolder folder;
  folder.write("tokenizer.json", small_byte_level().dump());
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"},
      "pad_token": "<pad>", "extra_special_tokens": ["cd"], "add_bos_token": false, "chat_template": "x",
      "added_tokens_decoder": {"1": {"content": "</s>", "lstrip": true, "normalized": false, "special": true}}})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.bos(), 0);
  EXPECT_EQ(tokenizer.eos(), 1);
  EXPECT_EQ(tokenizer.id_of("<pad>"), 23);
  EXPECT_EQ(tokenizer.vocabulary_size(), 24);
  expect_tokens(tokenizer, "a  </s>bcd", {"a", "</s>", "b", "cd"});
  EXPECT_EQ(tokenizer.encode("a").front(), 0);  // the post-processor decides about BOS
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("acd")), "a");

  const Tokenizer alone = Tokenizer::load(folder.path() + "/tokenizer.json");
  EXPECT_EQ(alone.bos(), std::nullopt);
  EXPECT_EQ(alone.id_of("<pad>"), std::nullopt);
}

TEST(TokenizerTest, ConfigThatContradictsTheFileIsRefused) {
  const BackboneFolder folder;
  folder.write("tokenizer.json", small_byte_level().dump());
  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"9": {"content": "</s>", "lstrip": true}}})");
  EXPECT_THROW(Tokenizer::load(folder.path()), Error);
}

TEST(TokenizerTest, MissingFileIsNotFound) {
  try {
    Tokenizer::load("/nonexistent/backbone");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("/nonexistent/backbone"));
  }
}

TEST(TokenizerTest, WrongFilesAreRefusedByName) {
  const auto changed = [](const char* pointer, const Json& value) {
    Json document = small_byte_level();
    document[Json::json_pointer(pointer)] = value;
    return error_of(document);
  };
  EXPECT_THAT(changed("/version", "2.0"), HasSubstr("version is \"2.0\""));
  EXPECT_THAT(changed("/language", "en"), HasSubstr("language"));
  EXPECT_THAT(changed("/model/type", "Unigram"), HasSubstr("model.type is \"Unigram\""));
  EXPECT_THAT(changed("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(changed("/model/end_of_word_suffix", "</w>"), HasSubstr("model.end_of_word_suffix"));
  EXPECT_THAT(changed("/model/vocab/a", 0), HasSubstr("have the same id 0"));
  EXPECT_THAT(changed("/model/vocab/a", -1), HasSubstr("the id of \"a\" is -1"));
  EXPECT_THAT(changed("/model/vocab/a", 1e10), HasSubstr("the id of \"a\""));
  EXPECT_THAT(changed("/model/merges/0", "b q"), HasSubstr("\"q\" of merge 0 is not in the vocabulary"));
  EXPECT_THAT(changed("/model/merges/1", "a b c"), HasSubstr("merges[1]"));
  EXPECT_THAT(changed("/model/merges/1", Json{"a", "b"}), HasSubstr("merges[1]"));
  EXPECT_THAT(changed("/added_tokens/0/id", 7), HasSubstr("added_tokens[0].id is 7"));
  EXPECT_THAT(changed("/added_tokens/0/colour", 7), HasSubstr("colour"));
  EXPECT_THAT(changed("/model", nullptr), HasSubstr("model"));
}

}  // namespace
}  // namespace coppice
