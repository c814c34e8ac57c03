// A backbone's weights in one file or in shards, as Hugging Face folders hold them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/io/safetensors.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class SafetensorsFolderTest : public ::testing::Test {
 protected:
  void write_shard(const std::string& name, const std::vector<std::string>& tensors) {
    std::vector<std::pair<std::string, TensorView>> views;
    for (const std::string& tensor : tensors)
      views.emplace_back(tensor, TensorView{DType::kF32, {2}, std::as_bytes(std::span(values_))});
    write_safetensors(folder_.file(name), views);
  }
  void write_index(const std::string& text) { put(folder_.file("model.safetensors.index.json"), text); }
  Error error() {
    return error_of([&] { SafetensorsFolder::open(folder_.path()); });
  }

  TestFolder folder_;
  std::vector<float> values_ = {1, 2};
};

TEST_F(SafetensorsFolderTest, ReadsASingleFile) {
  write_shard("model.safetensors", {"b", "a"});
  const SafetensorsFolder folder = SafetensorsFolder::open(folder_.path());
  EXPECT_THAT(folder.names(), ElementsAre("a", "b"));
  EXPECT_EQ(folder.bytes(), 16);
  EXPECT_EQ(to_f32(folder.tensor("a")).values, values_);
  EXPECT_NO_THROW(folder.release("a"));
  EXPECT_EQ(error_of([&] { folder.tensor("c"); }).what(), folder_.path() + ": tensor \"c\" does not exist");
}

TEST_F(SafetensorsFolderTest, ReadsShards) {
  write_shard("x-1.safetensors", {"a", "c"});
  write_shard("x-2.safetensors", {"b", "unlisted"});
  write_index(
      R"({"metadata": {"total_size": 24}, "weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors", "c": "x-1.safetensors"}})");
  const SafetensorsFolder folder = SafetensorsFolder::open(folder_.path());
  EXPECT_THAT(folder.names(), ElementsAre("a", "b", "c"));
  EXPECT_FALSE(folder.contains("unlisted"));
  EXPECT_EQ(folder.bytes(), 32);
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(to_f32(folder.tensor(name)).values, values_);
}

TEST_F(SafetensorsFolderTest, RefusesAnIndexThatDoesNotHold) {
  write_shard("x-1.safetensors", {"a"});
  write_index(R"({"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}})");
  EXPECT_EQ(error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(error().what(), HasSubstr("tensor \"b\" is in x-2.safetensors, which is missing"));
  write_index(R"({"weight_map": {"a": "x-1.safetensors", "b": "x-1.safetensors"}})");
  EXPECT_THAT(error().what(), HasSubstr("tensor \"b\" is not in x-1.safetensors"));
  for (const char* file : {"../x", "/etc/passwd", "", ".", "..", "a/b", "a\\\\b", "x\\u0000"}) {
    write_index(std::string(R"({"weight_map": {"a": ")") + file + "\"}}");
    EXPECT_THAT(error().what(), HasSubstr("the name of a file in the same folder is accepted")) << file;
  }
  for (const char* text :
       {"[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})", "{",
        R"({"weight_map": {"a": "x-1.safetensors", "a": "x-1.safetensors"}})"}) {
    write_index(text);
    EXPECT_EQ(error().code(), ErrorCode::kInvalid) << text;
    EXPECT_THAT(error().what(), StartsWith(folder_.file("model.safetensors.index.json"))) << text;
  }
}

TEST_F(SafetensorsFolderTest, RefusesAFolderWithoutWeights) {
  EXPECT_EQ(error().code(), ErrorCode::kNotFound);
  EXPECT_THAT(error().what(), StartsWith(folder_.path() + ": neither model.safetensors nor"));
  put(folder_.file("pytorch_model.bin"), "x");
  EXPECT_THAT(error().what(), HasSubstr("pytorch_model.bin is not read"));
  EXPECT_EQ(error_of([&] { SafetensorsFolder::open(folder_.file("none")); }).what(),
            folder_.file("none") + ": no such folder");
}

}  // namespace
}  // namespace coppice
