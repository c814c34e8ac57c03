#include "common/io/keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;

Keys keys(std::string_view text) {
  return Keys(parse_json(text, "test"), "jobs[0].train");
}

TEST(KeysTest, GivesValuesAndDefaults) {
  Keys k = keys(R"({"a": 2e-4, "b": 8, "c": true, "d": "x", "n": null, "i": 8.0, "big": 9007199254740993})");
  EXPECT_EQ(k.number("a", 1), 2e-4);
  EXPECT_EQ(k.number("b", 1), 8);
  EXPECT_EQ(k.integer("b", 1), 8);
  EXPECT_EQ(k.integer("i", 1), 8);
  EXPECT_EQ(k.integer("big", 1), 9007199254740993);
  EXPECT_TRUE(k.boolean("c", false));
  EXPECT_EQ(k.text("d", "y"), "x");
  EXPECT_EQ(k.choice("d", "y", {"x", "y"}), "x");
  EXPECT_EQ(k.number("n", 0.5), 0.5);
  EXPECT_EQ(k.integer("none", 3), 3);
  EXPECT_EQ(k.optional_number("n"), std::nullopt);
  EXPECT_EQ(k.optional_integer("b"), 8);
  EXPECT_EQ(k.optional_text("d"), "x");
  EXPECT_EQ(k.choice("none", "y", {"x", "y"}), "y");
  EXPECT_NO_THROW(k.finish());
}

TEST(KeysTest, RefusesAWrongTypeNamingFieldValueAndWhatIsAccepted) {
  Keys k = keys(
      R"({"r": "eight", "s": "2e-4", "f": 1.5, "b": 1, "t": 7, "o": {}, "x": true, "u": 18446744073709551615})");
  EXPECT_EQ(message_of([&] { k.integer("r", 1, {.minimum = 1}); }),
            "jobs[0].train.r is \"eight\"; a whole number of at least 1 is accepted");
  EXPECT_EQ(message_of([&] { k.number("s", 1); }), "jobs[0].train.s is \"2e-4\"; a number is accepted");
  EXPECT_EQ(message_of([&] { k.integer("f", 1); }), "jobs[0].train.f is 1.5; a whole number is accepted");
  EXPECT_EQ(message_of([&] { k.boolean("b", true); }), "jobs[0].train.b is 1; true or false is accepted");
  EXPECT_EQ(message_of([&] { k.text("t", ""); }), "jobs[0].train.t is 7; a string is accepted");
  EXPECT_EQ(message_of([&] {
              k.choice("t", "", {"a", "b", "c"});
            }),
            "jobs[0].train.t is 7; a, b or c is accepted");
  EXPECT_EQ(message_of([&] { k.number("x", 1); }), "jobs[0].train.x is true; a number is accepted");
  EXPECT_EQ(message_of([&] { k.integer("x", 1); }), "jobs[0].train.x is true; a whole number is accepted");
  EXPECT_EQ(error_of([&] { k.integer("u", 1); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { k.number("o", 1); }).code(), ErrorCode::kInvalid);
}

TEST(KeysTest, RefusesAValueOutOfRange) {
  Keys k = keys(R"({"a": -1, "b": 1, "c": 0, "d": 2.5})");
  EXPECT_EQ(message_of([&] { k.number("a", 1, {.minimum = 0}); }),
            "jobs[0].train.a is -1; a number of at least 0 is accepted");
  EXPECT_EQ(message_of([&] { k.number("d", 1, {.minimum = 0, .maximum = 1}); }),
            "jobs[0].train.d is 2.5; a number from 0 to 1 is accepted");
  EXPECT_EQ(message_of([&] { k.number("c", 1, {.minimum = 0, .open_minimum = true}); }),
            "jobs[0].train.c is 0; a number above 0 is accepted");
  EXPECT_EQ(message_of([&] { k.integer("b", 1, {.maximum = 0}); }),
            "jobs[0].train.b is 1; a whole number of at most 0 is accepted");
  EXPECT_EQ(k.number("b", 0, {.minimum = 1, .maximum = 1}), 1);
}

TEST(KeysTest, ReadsListsOrSingleValues) {
  Keys k = keys(
      R"({"a": ["x", "y"], "b": "x", "c": [1, 2.0], "d": 3, "e": [1, "x"], "f": ["x", 1], "g": {}, "h": []})");
  EXPECT_THAT(k.texts("a"), ElementsAre("x", "y"));
  EXPECT_THAT(k.texts("b"), ElementsAre("x"));
  EXPECT_THAT(k.texts("none"), ElementsAre());
  EXPECT_THAT(k.texts("h"), ElementsAre());
  EXPECT_THAT(k.integers("c"), ElementsAre(1, 2));
  EXPECT_THAT(k.integers("d"), ElementsAre(3));
  EXPECT_EQ(message_of([&] { k.integers("e"); }), "jobs[0].train.e[1] is \"x\"; a whole number is accepted");
  EXPECT_EQ(message_of([&] { k.texts("f"); }), "jobs[0].train.f[1] is 1; a string is accepted");
  EXPECT_THROW(k.texts("g"), Error);
  EXPECT_THROW(k.integers("g"), Error);
}

TEST(KeysTest, SuggestsTheNearestKeyForAnUnknownOne) {
  Keys k = keys(R"({"learning_rat": 1})");
  k.number("learning_rate", 1);
  k.integer("r", 1);
  EXPECT_EQ(message_of([&] { k.finish(); }),
            "jobs[0].train.learning_rat: unknown key; did you mean learning_rate?");
  Keys far = keys(R"({"zebra crossing": null})");
  far.number("learning_rate", 1);
  EXPECT_EQ(message_of([&] { far.finish(); }), "jobs[0].train.\"zebra crossing\": unknown key");
}

TEST(KeysTest, HasDoesNotCountAsAsking) {
  Keys k = keys(R"({"a": 1, "n": null})");
  EXPECT_TRUE(k.has("a"));
  EXPECT_FALSE(k.has("n"));
  EXPECT_FALSE(k.has("b"));
  EXPECT_THROW(k.finish(), Error);
  EXPECT_NE(k.value("a"), nullptr);
  EXPECT_EQ(k.value("n"), nullptr);
  EXPECT_NO_THROW(k.finish());
}

TEST(KeysTest, AcceptsNeutralValuesAndRefusesOthersByName) {
  Keys k = keys(
      R"({"fp16": false, "p": 0.0, "n": null, "bad": true, "report_to": "wandb", "m": "none", "l": []})");
  EXPECT_NO_THROW(k.neutral("fp16", false));
  EXPECT_NO_THROW(k.neutral("p", 0));
  EXPECT_NO_THROW(k.neutral("n", 7));
  EXPECT_NO_THROW(k.neutral("absent", 7));
  EXPECT_NO_THROW(k.neutral("l", Json::array()));
  EXPECT_NO_THROW(k.neutral("m", {"none", "all"}));
  const Error error = error_of([&] { k.neutral("bad", false); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_STREQ(error.what(), "jobs[0].train.bad is true; only false is supported");
  EXPECT_EQ(message_of([&] {
              k.neutral("report_to", {"none", "all", false});
            }),
            "jobs[0].train.report_to is \"wandb\"; only \"none\", \"all\" or false is supported");
  EXPECT_NO_THROW(k.finish());
}

TEST(KeysTest, AcceptsInformativeKeysAtAnyValue) {
  Keys k = keys(R"({"base_model_name_or_path": {"x": 1}})");
  k.informative("base_model_name_or_path");
  EXPECT_NO_THROW(k.finish());
}

TEST(KeysTest, RefusesWhatIsNotAnObject) {
  EXPECT_EQ(message_of([] { Keys(Json::array(), "jobs[0]"); }),
            "jobs[0] is []; an object of keys is accepted");
  EXPECT_EQ(message_of([] { Keys(Json(), ""); }), "the document is null; an object of keys is accepted");
  EXPECT_EQ(message_of([] { Keys(Json(), "a.json: "); }),
            "a.json: the document is null; an object of keys is accepted");
}

TEST(KeysTest, NamesAKeyInItsObjectOrFile) {
  EXPECT_EQ(Keys(Json::object(), "").path("a"), "a");
  EXPECT_EQ(Keys(Json::object(), "jobs[0]").path("a"), "jobs[0].a");
  EXPECT_EQ(Keys(Json::object(), "a.json: ").path("a"), "a.json: a");
}

TEST(KeysTest, KeepsMessagesShortWhateverTheKey) {
  Keys k(Json{{std::string(100000, 'k'), std::string(100000, 'v')}, {"a\nb", 1}}, "x");
  k.text("a", "");
  EXPECT_EQ(error_of([&] { k.finish(); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { k.integer(std::string(100000, 'k'), 1); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { k.finish(); }).code(), ErrorCode::kInvalid);
}

TEST(NearestTest, FindsLikelyMeanings) {
  EXPECT_EQ(nearest("lora_alfa", {"r", "lora_alpha", "lora_dropout"}), "lora_alpha");
  EXPECT_EQ(nearest("epochs", {"num_train_epochs", "seed"}), "");
  EXPECT_EQ(nearest("a", {"b", "c"}), "");
  EXPECT_EQ(nearest("sed", {"seed", "r"}), "seed");
  EXPECT_EQ(nearest("", {"seed"}), "");
  EXPECT_EQ(nearest("seed", {}), "");
  EXPECT_EQ(nearest("seed", {"seed", "seeds"}), "seed");
}

}  // namespace
}  // namespace coppice
