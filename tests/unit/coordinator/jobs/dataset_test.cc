#include "coordinator/jobs/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "common/io/files.h"
#include "tests/unit/coordinator/jobs/expect_error.h"

namespace coppice {
namespace {

using Ids = std::vector<int32_t>;

constexpr int64_t kVocabulary = 4096;
constexpr int32_t kBegin = 0, kEnd = 1;
const std::string kBackbone = COPPICE_SOURCE_DIR "/cluster/demo/backbone";

class DatasetTest : public testing::Test {
 protected:
  DatasetTest()
      : folder_(testing::TempDir() + "dataset_" +
                testing::UnitTest::GetInstance()->current_test_info()->name()),
        path_(folder_ + "/rows.jsonl"),
        tokenizer_(Tokenizer::load(kBackbone)) {
    std::filesystem::create_directories(folder_);
  }
  ~DatasetTest() override { std::filesystem::remove_all(folder_); }

  Dataset read(const std::string& lines, bool virtual_rows = false) {
    write_file_atomically(path_, lines);
    return read_dataset(path_, data_, &tokenizer_, kVocabulary, virtual_rows);
  }
  Example one(const std::string& line) {
    Dataset dataset = read(line + "\n");
    EXPECT_EQ(dataset.examples.size(), 1u);
    return dataset.examples.at(0);
  }
  // The message begins with the file, then comes expected.
  void refused(const std::string& lines, const std::string& expected) {
    expect_error(ErrorCode::kInvalid, path_ + expected, [&] { read(lines); });
  }
  Ids ids(const std::string& text, bool close = true) const {
    Ids tokens = tokenizer_.encode(text);
    if (close) tokens.push_back(kEnd);
    return tokens;
  }

  std::string folder_, path_;
  Tokenizer tokenizer_;
  DataArguments data_;
};

Ids masked(Ids labels, size_t prompt) {
  std::fill_n(labels.begin(), prompt, kIgnored);
  return labels;
}

TEST_F(DatasetTest, TextIsAllTargetsAndClosed) {
  data_.loss_on = LossOn::kCompletion;  // says nothing about text
  const Example example = one(R"({"text": "The world is"})");
  EXPECT_EQ(example.tokens, (Ids{kBegin, 560, 3373, 313, kEnd}));
  EXPECT_EQ(example.labels, example.tokens);
  EXPECT_EQ(example.targets(false), 4);
  EXPECT_EQ(example.targets(true), 5);  // a virtual row predicts the first token too
}

TEST_F(DatasetTest, CompletionIsTheTarget) {
  const Example example = one(R"({"prompt": "A:", "completion": " b"})");
  EXPECT_EQ(example.tokens, (Ids{kBegin, 37, 30, 286, kEnd}));
  EXPECT_EQ(example.labels, (Ids{kIgnored, kIgnored, kIgnored, 286, kEnd}));
  EXPECT_EQ(example.targets(false), 2);
}

TEST_F(DatasetTest, LossOnAllTakesThePromptToo) {
  data_.loss_on = LossOn::kAll;
  const Example example = one(R"({"prompt": "A:", "completion": " b"})");
  EXPECT_EQ(example.labels, example.tokens);
}

TEST_F(DatasetTest, ATokenThatJoinsPromptAndCompletionIsATarget) {
  // "Date: " alone ends in a token for the space, which is part of " now" in the whole.
  const Example example = one(R"({"prompt": "Date: ", "completion": "now"})");
  EXPECT_EQ(example.tokens, (Ids{kBegin, 40, 386, 30, 1109, kEnd}));
  EXPECT_EQ(example.labels, masked(example.tokens, 4));
  // What the joining changes before it goes with it: " wor" is two tokens alone and one in " world".
  const Example inside = one(R"({"prompt": "The wor", "completion": "ld is"})");
  EXPECT_EQ(inside.tokens, ids("The world is"));
  EXPECT_EQ(inside.labels, masked(inside.tokens, 2));
}

TEST_F(DatasetTest, AnEndThatStandsThereIsNotSetTwice) {
  EXPECT_EQ(one(R"({"text": "The world is<|end|>"})").tokens, ids("The world is"));
  EXPECT_EQ(one(R"({"prompt": "A:", "completion": " b<|end|>"})").tokens, ids("A: b"));
}

TEST_F(DatasetTest, WithoutAnEndTokenNothingIsClosed) {
  write_file_atomically(folder_ + "/tokenizer.json", read_file(kBackbone + "/tokenizer.json"));
  tokenizer_ = Tokenizer::load(folder_ + "/tokenizer.json");
  ASSERT_FALSE(tokenizer_.eos());
  EXPECT_EQ(one(R"({"text": "The world is"})").tokens, (Ids{kBegin, 560, 3373, 313}));
}

TEST_F(DatasetTest, InstructionsTakeTheAlpacaTemplates) {
  const std::string with =
      "Below is an instruction that describes a task, paired with an input that provides further context. "
      "Write a "
      "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 "
      "{2}\n\n### "
      "Response:\n";
  const std::string without =
      "Below is an instruction that describes a task. Write a response that appropriately completes the "
      "request.\n\n### Instruction:\nAdd.\n\n### Response:\n";
  const Example both = one(R"({"instruction": "Add.", "input": "1 {2}", "output": "3"})");
  EXPECT_EQ(both.tokens, ids(with + "3"));
  EXPECT_EQ(both.labels, masked(both.tokens, ids(with, false).size()));
  EXPECT_EQ(one(R"({"instruction": "Add.", "input": "", "output": "3"})").tokens, ids(without + "3"));
  EXPECT_EQ(one(R"({"instruction": "Add.", "input": null, "output": "3"})").tokens, ids(without + "3"));
  EXPECT_EQ(one(R"({"instruction": "Add.", "output": "3"})").tokens, ids(without + "3"));
}

TEST_F(DatasetTest, ATemplateReplacesThem) {
  data_.prompt_template = "{{{instruction}}} <{input}>\n";
  EXPECT_EQ(one(R"({"instruction": "Add {input}.", "input": "{x}", "output": "3"})").tokens,
            ids("{Add {input}.} <{x}>\n3"));
  EXPECT_EQ(one(R"({"instruction": "Add.", "output": "3"})").tokens, ids("{Add.} <>\n3"));
}

TEST_F(DatasetTest, ATemplateIsNeverIgnored) {
  data_.prompt_template = "{instruction}";
  const std::string good = "{\"instruction\": \"a\", \"output\": \"b\"}\n";
  for (const char* row :
       {R"({"text": "a"})", R"({"prompt": "a", "completion": "b"})", R"({"input_ids": [1, 2]})"}) {
    expect_error(ErrorCode::kInvalid, path_ + ":2: the row has no \"instruction\" that data.template",
                 [&] { read(good + row); });
  }
}

TEST_F(DatasetTest, IdsAreTakenAsTheyAre) {
  const Example plain = one(R"({"input_ids": [5, 6, 4095]})");
  EXPECT_EQ(plain.tokens, (Ids{5, 6, 4095}));
  EXPECT_EQ(plain.labels, plain.tokens);
  const Example labelled =
      one(R"({"input_ids": [5, 6, 7], "labels": [-100, 9, -100], "attention_mask": [1, 1, 1]})");
  EXPECT_EQ(labelled.labels, (Ids{kIgnored, 9, kIgnored}));
  EXPECT_EQ(labelled.targets(false), 1);
  write_file_atomically(path_, R"({"input_ids": [1, 2]})");
  EXPECT_EQ(read_dataset(path_, data_, nullptr, kVocabulary, false).tokens, 2);
}

TEST_F(DatasetTest, FormsMayStandTogether) {
  const Dataset dataset =
      read("{\"text\": \"a\"}\n\n{\"prompt\": \"\", \"completion\": \"b\"}\n{\"input_ids\": [1, 2]}");
  EXPECT_EQ(dataset.examples.size(), 3u);
  EXPECT_EQ(dataset.tokens, 8);
}

TEST_F(DatasetTest, RefusesBadRowsByLine) {
  refused("", ": the file has no rows");
  refused("\n\n", ": the file has no rows");
  refused("{\"text\": \"a\"}\n{\"text\": \"\"}\n", ":2: \"text\" is empty");
  refused("{\"text\": \"a\"}\n[1]\n", ":2");
  refused("{\"text\": \"a\"}\n{\"text\n", ":2");
  refused("{}", ":1: the row is empty");
  refused(R"({"txet": "a"})", ":1: the keys are of no known form (\"txet\"; did you mean text)");
  refused(R"({"labels": [1]})", ":1: the keys are of no known form (\"labels\")");
  refused(R"({"text": 3})", ":1: \"text\" is 3; a string is accepted");
  refused(R"({"text": null})", ":1: \"text\" is null");
  refused(R"({"text": "a", "prompt": "b"})", ":1: \"prompt\" does not belong beside \"text\"");
  refused(R"({"prompt": "a"})", ":1: \"completion\" is missing beside \"prompt\"");
  refused(R"({"completion": "a"})", ":1: \"prompt\" is missing beside \"completion\"");
  refused(R"({"prompt": "a", "completion": ""})", ":1: the completion is empty");
  refused(R"({"prompt": "a", "completion": "b", "labels": [1]})",
          ":1: \"labels\" does not belong beside \"prompt\"");
  refused(R"({"instruction": "a", "input": "b"})", ":1: \"output\" is missing beside \"instruction\"");
  refused(R"({"instruction": "a", "input": 3, "output": "b"})", ":1: \"input\" is 3");
}

TEST_F(DatasetTest, RefusesBadIdsByLine) {
  refused(R"({"input_ids": []})", ":1: \"input_ids\" is empty");
  refused(R"({"input_ids": "1 2"})", ":1: \"input_ids\" is \"1 2\"");
  refused(R"({"input_ids": [1, 4096]})", ":1: \"input_ids\"[1] is 4096; a token id below 4096 is accepted");
  refused(R"({"input_ids": [1, -1]})", ":1: \"input_ids\"[1] is -1");
  refused(R"({"input_ids": [1, -100]})", ":1: \"input_ids\"[1] is -100");
  refused(R"({"input_ids": [1, 2.0]})", ":1: \"input_ids\"[1] is 2.0");
  refused(R"({"input_ids": [1, 4294967297]})", ":1: \"input_ids\"[1] is 4294967297");
  refused(R"({"input_ids": [1, 18446744073709551615]})", ":1: \"input_ids\"[1] is 18446744073709551615");
  refused(R"({"input_ids": [1, 2], "labels": [1]})", ":1: \"labels\" has 1 values and \"input_ids\" 2");
  refused(R"({"input_ids": [1, 2], "labels": [1, -99]})",
          ":1: \"labels\"[1] is -99; a token id below 4096 is accepted, or -100 for none");
  refused(R"({"input_ids": [1, 2], "attention_mask": [0, 1]})", ":1: \"attention_mask\" is [0,1]");
}

TEST_F(DatasetTest, RefusesRowsWithoutATarget) {
  refused(R"({"input_ids": [7]})", ":1: no token of the row is a target");
  refused(R"({"input_ids": [7, 8], "labels": [7, -100]})", ":1: no token of the row is a target");
  write_file_atomically(path_, R"({"input_ids": [7]})");
  EXPECT_EQ(read_dataset(path_, data_, nullptr, kVocabulary, true).examples.size(), 1u);
}

TEST_F(DatasetTest, TextNeedsATokenizerOfTheBackbone) {
  write_file_atomically(path_, R"({"text": "a"})");
  expect_error(ErrorCode::kInvalid, path_ + ":1: the row is text, but the backbone has no tokenizer.json",
               [&] { read_dataset(path_, data_, nullptr, kVocabulary, false); });
  expect_error(ErrorCode::kInvalid, ":1: the tokenizer gives id ",
               [&] { read_dataset(path_, data_, &tokenizer_, 10, false); });
  expect_error(ErrorCode::kNotFound, folder_ + "/none",
               [&] { read_dataset(folder_ + "/none", data_, &tokenizer_, kVocabulary, false); });
}

TEST_F(DatasetTest, LongRowsAreAnErrorCutOrLeftOut) {
  const std::string rows =
      "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, 2, 3, 4, 5]}\n{\"input_ids\": [4, 5]}\n";
  data_.max_length = 5;
  EXPECT_EQ(read(rows).tokens, 10);
  data_.max_length = 4;
  refused(rows, ":2: 5 tokens, but data.max_length is 4");
  data_.on_long = OnLong::kTruncate;
  const Dataset cut = read(rows);
  EXPECT_EQ(cut.truncated, 1);
  EXPECT_EQ(cut.dropped, 0);
  EXPECT_EQ(cut.tokens, 9);
  EXPECT_EQ(cut.examples[1].labels, (Ids{1, 2, 3, 4}));
  data_.on_long = OnLong::kDrop;
  const Dataset left = read(rows);
  EXPECT_EQ(left.truncated, 0);
  EXPECT_EQ(left.dropped, 1);
  EXPECT_EQ(left.examples.size(), 2u);
  data_.max_length = 1;
  refused(rows, ": all 3 rows are longer than data.max_length 1 and dropped");
  data_.on_long = OnLong::kTruncate;
  refused(rows,
          ":1: 3 tokens cut to data.max_length 1 leave no target; data.on_long drop leaves such rows out");
}

TEST_F(DatasetTest, FingerprintTellsTokensLabelsAndOrder) {
  const std::string a = "{\"input_ids\": [1, 2]}\n", b = "{\"input_ids\": [1, 2], \"labels\": [-100, 2]}\n";
  EXPECT_EQ(read(a + b).fingerprint, read(a + "\n" + b).fingerprint);
  EXPECT_NE(read(a + b).fingerprint, read(b + a).fingerprint);
  EXPECT_NE(read(a).fingerprint, read(b).fingerprint);
  EXPECT_NE(read("{\"input_ids\": [1, 2]}\n{\"input_ids\": [3, 4]}").fingerprint,
            read("{\"input_ids\": [1, 2, 3, 4]}").fingerprint);
}

TEST_F(DatasetTest, ReadsTheTaskSetsOfTheDemo) {
  const std::string folder = COPPICE_SOURCE_DIR "/cluster/demo/data/";
  for (const std::string task : {"define", "iso-date", "manual", "part-of-speech", "scripture", "synonym"}) {
    data_.prompt_template.reset();
    if (task == "synonym") data_.prompt_template = "{instruction}\n{input}\n";
    const Dataset dataset =
        read_dataset(folder + task + "-eval.jsonl", data_, &tokenizer_, kVocabulary, false);
    EXPECT_GE(dataset.examples.size(), 100u) << task;
  }
}

}  // namespace
}  // namespace coppice
