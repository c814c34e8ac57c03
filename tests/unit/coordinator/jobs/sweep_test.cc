#include "coordinator/jobs/sweep.h"

#include <gtest/gtest.h>

#include "tests/unit/coordinator/jobs/expect_error.h"

namespace coppice {
namespace {

std::vector<Json> jobs() {
  return {parse_json(R"({"name": "a"})", "a"),
          parse_json(R"({"name": "tone", "method": {"r": 8}, "train": {"learning_rate": 1}})", "tone"),
          parse_json(R"({"name": "z"})", "z")};
}

std::vector<std::string> names(const std::string& sweep) {
  std::vector<std::string> found;
  for (const Json& job : expand_sweep(jobs(), parse_json(sweep, "sweep"), "sweep"))
    found.push_back(job["name"]);
  return found;
}

TEST(SweepTest, AGridStandsWhereTheJobStood) {
  EXPECT_EQ(
      names(R"({"of": "tone", "over": {"train.learning_rate": [1.0e-4, 3.0e-4], "method.r": [4, 16]}})"),
      (std::vector<std::string>{
          "a", "tone@train.learning_rate=1e-4,method.r=4", "tone@train.learning_rate=1e-4,method.r=16",
          "tone@train.learning_rate=3e-4,method.r=4", "tone@train.learning_rate=3e-4,method.r=16", "z"}));
}

TEST(SweepTest, ValuesReachTheirKeys) {
  const auto expanded = expand_sweep(
      jobs(), parse_json(R"({"of": "tone", "over": {"method.r": [4], "data.shuffle": [false]}})", "sweep"),
      "sweep");
  EXPECT_EQ(expanded[1]["method"]["r"], 4);
  EXPECT_EQ(expanded[1]["data"]["shuffle"], false);
  EXPECT_EQ(expanded[1]["train"]["learning_rate"], 1);
}

TEST(SweepTest, ValuesAreNamedShortest) {
  const auto named = [](const std::string& value) {
    return names(R"({"of": "tone", "over": {"train.x": [)" + value + "]}}")[1].substr(13);
  };
  EXPECT_EQ(named("0.0001"), "1e-4");
  EXPECT_EQ(named("2.5e-5"), "2.5e-5");
  EXPECT_EQ(named("0.01"), "0.01");
  EXPECT_EQ(named("0.1"), "0.1");
  EXPECT_EQ(named("1.0"), "1");
  EXPECT_EQ(named("1e22"), "1e22");
  EXPECT_EQ(named("-0.25"), "-0.25");
  EXPECT_EQ(named("100"), "100");
  EXPECT_EQ(named("true"), "true");
  EXPECT_EQ(named("null"), "null");
  EXPECT_EQ(named("\"cosine\""), "cosine");
  EXPECT_EQ(named("\"../a b.jsonl\""), "..-a-b.jsonl");
  EXPECT_EQ(named(R"(["q_proj", "v_proj"])"), "q_proj+v_proj");
  EXPECT_EQ(named("[]"), "none");
}

TEST(SweepTest, SeveralSweepsSeeEachOther) {
  EXPECT_EQ(
      names(
          R"([{"of": "tone", "over": {"method.r": [4]}}, {"of": "tone@method.r=4", "over": {"train.seed": [1, 2]}},
                      {"of": "z", "over": {"priority": [2]}}])"),
      (std::vector<std::string>{"a", "tone@method.r=4@train.seed=1", "tone@method.r=4@train.seed=2",
                                "z@priority=2"}));
}

TEST(SweepTest, RefusesByAxis) {
  const auto refused = [](const std::string& sweep, const std::string& message) {
    expect_error(ErrorCode::kInvalid, message, [&] { names(sweep); });
  };
  refused(R"({"of": "tne", "over": {"method.r": [4]}})",
          "sweep.of is \"tne\"; the name of a job is accepted, such as tone");
  refused(R"({"of": "tone"})", "sweep.over is missing");
  refused(R"({"of": "tone", "over": {}})", "sweep.over is {}");
  refused(R"({"of": "tone", "over": {"method.r": []}})", "sweep.over.method.r is []");
  refused(R"({"of": "tone", "over": {"method.r": 4}})",
          "sweep.over.method.r is 4; a list of at least one value");
  refused(R"({"of": "tone", "over": {"method.r": [4, 4.0]}})", "sweep.over.method.r holds 4.0 twice");
  refused(R"({"of": "tone", "over": {"method": [{}]}})", "sweep.over.method is no key of a job");
  refused(R"({"of": "tone", "over": {"method..r": [4]}})", "is no key of a job");
  refused(R"({"of": "tone", "over": {"name": ["x"]}})", "sweep.over.name is no key of a job");
  refused(R"({"of": "tone", "over": {"method.r.x": [4]}})", "leads through 8, which is no object");
  refused(R"({"of": "tone", "over": {"method.rank_pattern": [{"a": 1}]}})",
          "a number, a string, true, false, null");
  refused(R"({"of": "tone", "ower": {"method.r": [4]}})", "sweep.ower: unknown key; did you mean over?");
  refused(R"([{"of": "tone", "over": {"method.r": [1]}}, {"of": "tone", "over": {"method.r": [2]}}])",
          "sweep[1].of");
}

TEST(SweepTest, RefusesAGridWithoutEnd) {
  Json sweep = {{"of", "tone"}, {"over", Json::object()}};
  for (const char* axis : {"train.a", "train.b", "train.c"}) {
    for (int i = 0; i < 50; ++i) sweep["over"][axis].push_back(i);
  }
  expect_error(ErrorCode::kInvalid, "sweep.over makes more than 10000 jobs",
               [&] { expand_sweep(jobs(), sweep, "sweep"); });
}

}  // namespace
}  // namespace coppice
