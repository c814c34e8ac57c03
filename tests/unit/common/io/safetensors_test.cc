#include "common/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "common/io/files.h"
#include "common/io/json.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A file's bytes from a header and its data.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsFile open(const std::string& bytes) {
    put(path_, bytes);
    return SafetensorsFile::open(path_);
  }
  // The message without the path, which every message begins with.
  std::string message(const std::string& bytes) {
    const Error error = error_of([&] { open(bytes); });
    EXPECT_EQ(error.code(), ErrorCode::kInvalid) << error.what();
    EXPECT_THAT(error.what(), StartsWith(path_ + ": "));
    return std::string(error.what()).substr(path_.size() + 2);
  }
  std::string header_message(const std::string& header, size_t data_bytes = 8) {
    return message(file_of(header, std::string(data_bytes, 'x')));
  }
  // A valid file of three tensors and metadata.
  std::string valid() {
    const std::vector<float> a = {1, 2, 3, 4, 5, 6};
    const std::vector<uint16_t> b = {0x3f80, 0x4000, 0x4040};
    const std::vector<int64_t> c = {7, -8};
    write_safetensors(path_,
                      {{"model.a", {DType::kF32, {2, 3}, std::as_bytes(std::span(a))}},
                       {"model.b", {DType::kBF16, {3}, std::as_bytes(std::span(b))}},
                       {"model.c", {DType::kI64, {2, 1}, std::as_bytes(std::span(c))}}},
                      {{"format", "pt"}, {"note", "é\n"}});
    return read_file(path_);
  }

  TestFolder folder_;
  std::string path_ = folder_.file("m.safetensors");
};

TEST_F(SafetensorsTest, ReadsWhatItWrites) {
  valid();
  const SafetensorsFile file = SafetensorsFile::open(path_);
  EXPECT_EQ(file.path(), path_);
  EXPECT_THAT(file.names(), ElementsAre("model.a", "model.b", "model.c"));
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "é\n"}}));
  EXPECT_EQ(file.bytes(), 24 + 6 + 16);
  EXPECT_EQ(file.tensor("model.a").shape, (Shape{2, 3}));
  EXPECT_EQ(to_f32(file.tensor("model.a")).values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(to_f32(file.tensor("model.b")).values, (std::vector<float>{1, 2, 3}));
  const TensorView& c = file.tensor("model.c");
  EXPECT_EQ(c.dtype, DType::kI64);
  int64_t last;
  std::memcpy(&last, c.bytes.data() + 8, 8);
  EXPECT_EQ(last, -8);
  EXPECT_TRUE(file.contains("model.a"));
  EXPECT_FALSE(file.contains("model"));
  const Error error = error_of([&] { file.tensor("model.d"); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_EQ(error.what(), path_ + ": tensor \"model.d\" does not exist");
}

TEST_F(SafetensorsTest, WritesEveryTensorAlignedToItsElements) {
  const std::vector<uint8_t> bytes(64, 1);
  const auto view = [&](DType dtype, int64_t count) {
    return TensorView{
        dtype, {count}, std::as_bytes(std::span(bytes)).first(size_t(count) * dtype_size(dtype))};
  };
  write_safetensors(path_, {{"a", view(DType::kU8, 3)},
                            {"b", view(DType::kF16, 1)},
                            {"c", view(DType::kI64, 1)},
                            {"d", view(DType::kF32, 3)},
                            {"e", view(DType::kF16, 0)}});
  const SafetensorsFile file = SafetensorsFile::open(path_);
  for (const std::string& name : file.names()) {
    const TensorView& tensor = file.tensor(name);
    EXPECT_EQ(uintptr_t(tensor.bytes.data()) % dtype_size(tensor.dtype), 0u) << name;
  }
  uint64_t header_bytes;
  std::memcpy(&header_bytes, read_file(path_).data(), 8);
  EXPECT_EQ(header_bytes % 8, 0u);
}

TEST_F(SafetensorsTest, TheSameTensorsMakeTheSameFile) {
  const std::vector<float> a = {1, 2};
  const TensorView view{DType::kF32, {2}, std::as_bytes(std::span(a))};
  write_safetensors(path_, {{"x", view}, {"y", view}});
  const std::string bytes = read_file(path_);
  write_safetensors(path_, {{"y", view}, {"x", view}});
  EXPECT_EQ(read_file(path_), bytes);
}

TEST_F(SafetensorsTest, RefusesToWriteWhatCannotBeRead) {
  const std::vector<float> a = {1, 2};
  const TensorView view{DType::kF32, {2}, std::as_bytes(std::span(a))};
  EXPECT_THAT(message_of([&] {
                write_safetensors(path_, {{"x", view}, {"x", view}});
              }),
              HasSubstr("a second tensor of this name"));
  EXPECT_EQ(error_of([&] {
              write_safetensors(path_, {{"__metadata__", view}});
            }).code(),
            ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { write_safetensors(path_, {{"\xff", view}}); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] {
              write_safetensors(folder_.file("none/m"), {{"x", view}});
            }).code(),
            ErrorCode::kNotFound);
  EXPECT_EQ(folder_.entries(), 0u);
}

TEST_F(SafetensorsTest, ReadsEmptyAndScalarTensors) {
  const SafetensorsFile none = open(file_of("{}", ""));
  EXPECT_TRUE(none.names().empty());
  const SafetensorsFile file = open(file_of(
      R"({"e":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("z":{"dtype":"F16","shape":[3,0],"data_offsets":[4,4]}}   )",
      "abcd"));
  EXPECT_EQ(file.tensor("s").shape, Shape{});
  EXPECT_EQ(file.tensor("s").bytes.size(), 4u);
  EXPECT_EQ(file.tensor("e").bytes.size(), 0u);
  EXPECT_NO_THROW(file.release("e"));
}

TEST_F(SafetensorsTest, ListsOtherDtypesAndRefusesThemWhenAsked) {
  const SafetensorsFile file = open(file_of(
      R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},)"
      R"("c":{"dtype":"F4","shape":[2,3],"data_offsets":[8,11]}})",
      "abcdefghijk"));
  EXPECT_THAT(file.names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(file.tensor("b").bytes.size(), 4u);
  const Error error = error_of([&] { file.tensor("a"); });
  EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
  EXPECT_THAT(error.what(), AllOf(StartsWith(path_), HasSubstr("tensor \"a\" has dtype F8_E4M3")));
}

TEST_F(SafetensorsTest, ReleasedPagesCanBeReadAgain) {
  std::vector<float> values(100000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  const auto bytes = std::as_bytes(std::span(values));
  write_safetensors(path_, {{"a", {DType::kF32, {50000}, bytes.first(200000)}},
                            {"b", {DType::kF32, {50000}, bytes.last(200000)}}});
  const SafetensorsFile file = SafetensorsFile::open(path_);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(std::memcmp(file.tensor("a").bytes.data(), values.data(), 200000), 0);
    EXPECT_EQ(std::memcmp(file.tensor("b").bytes.data(), values.data() + 50000, 200000), 0);
    file.release("a");
  }
  EXPECT_EQ(error_of([&] { file.release("c"); }).code(), ErrorCode::kNotFound);
}

TEST_F(SafetensorsTest, SurvivesAMove) {
  valid();
  SafetensorsFile file = SafetensorsFile::open(path_);
  const std::byte* data = file.tensor("model.a").bytes.data();
  SafetensorsFile moved = std::move(file);
  EXPECT_EQ(moved.tensor("model.a").bytes.data(), data);
  EXPECT_EQ(to_f32(moved.tensor("model.a")).values[5], 6);
}

TEST_F(SafetensorsTest, NamesAMissingFileAndAFolder) {
  EXPECT_EQ(error_of([&] { SafetensorsFile::open(folder_.file("none")); }).code(), ErrorCode::kNotFound);
  EXPECT_EQ(error_of([&] { SafetensorsFile::open(folder_.path()); }).code(), ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { SafetensorsFile::open("/dev/zero"); }).code(), ErrorCode::kInvalid);
}

TEST_F(SafetensorsTest, RefusesAFileCutAnywhere) {
  const std::string bytes = valid();
  uint64_t header_bytes;
  std::memcpy(&header_bytes, bytes.data(), 8);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string text = message(bytes.substr(0, size));
    if (size > 8) {
      EXPECT_THAT(text, HasSubstr("the file is cut")) << size;
    }
    if (size >= 8 + header_bytes) {
      EXPECT_THAT(text, AllOf(HasSubstr("tensor \"model."), HasSubstr(fmt::format("ends at {}", size))));
    }
  }
  EXPECT_THAT(message(bytes + "x"), HasSubstr(fmt::format("the tensors end at offset {}, the file at {}",
                                                          bytes.size(), bytes.size() + 1)));
}

TEST_F(SafetensorsTest, NamesTensorAndOffsetsOfACutFile) {
  const std::string bytes = file_of(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      "0123456789ab");
  EXPECT_EQ(message(bytes.substr(0, bytes.size() - 1)),
            fmt::format("tensor \"b\" lies at offset {} to {} of the file, which ends at {}; the file is cut",
                        bytes.size() - 8, bytes.size(), bytes.size() - 1));
}

TEST_F(SafetensorsTest, RefusesABadHeaderLength) {
  for (const uint64_t length : {uint64_t(100'000'001), uint64_t(1) << 63, ~uint64_t(0), ~uint64_t(0) - 7}) {
    std::string bytes = file_of("{}", "");
    std::memcpy(bytes.data(), &length, 8);
    EXPECT_THAT(message(bytes), HasSubstr("at most 100000000 is accepted"));
  }
  std::string bytes = file_of("{}", "");
  bytes[0] = 3;
  EXPECT_THAT(message(bytes), HasSubstr("the header ends at offset 11, the file at 10; the file is cut"));
  bytes[0] = 0;
  EXPECT_THAT(message(bytes), HasSubstr("does not begin with {"));
}

TEST_F(SafetensorsTest, RefusesABadHeader) {
  EXPECT_THAT(header_message("[]"), HasSubstr("does not begin with {"));
  EXPECT_THAT(header_message(" {}"), HasSubstr("does not begin with {"));
  EXPECT_THAT(header_message("{\"a\":"), HasSubstr("unexpected end"));
  EXPECT_THAT(header_message("{} x"), HasSubstr("header:1:"));
  EXPECT_THAT(header_message("{\"\xff\":1}"), HasSubstr("UTF-8"));
  EXPECT_THAT(header_message(std::string("{}\0\0", 4)), HasSubstr("header:1:3"));
  std::string nested = "{\"a\":";
  EXPECT_THAT(header_message(nested + std::string(100000, '[')), HasSubstr("deeper than 256"));
  EXPECT_THAT(
      header_message(
          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})"),
      HasSubstr("key \"a\" stands twice"));
  EXPECT_THAT(header_message(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("stands twice"));
}

TEST_F(SafetensorsTest, RefusesBadMetadata) {
  EXPECT_EQ(header_message(R"({"__metadata__":1})", 0),
            "__metadata__ is 1; an object of strings is accepted");
  EXPECT_EQ(header_message(R"({"__metadata__":{"a":1}})", 0),
            "__metadata__.\"a\" is 1; a string is accepted");
}

TEST_F(SafetensorsTest, RefusesABadEntry) {
  const auto entry = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return header_message(R"({"t":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" +
                          offsets + "}}");
  };
  EXPECT_EQ(header_message(R"({"t":1})"), "tensor \"t\" is 1; an object is accepted");
  EXPECT_EQ(header_message(R"({"t":{"dtype":"F32","shape":[2]}})"), "tensor \"t\" has no data_offsets");
  EXPECT_THAT(header_message(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1]}})"),
              HasSubstr("has a key \"stride\""));
  EXPECT_THAT(entry("\"F33\"", "[2]", "[0,8]"), HasSubstr("dtype is \"F33\""));
  EXPECT_THAT(entry("\"f32\"", "[2]", "[0,8]"), HasSubstr("dtype is \"f32\""));
  EXPECT_THAT(entry("4", "[2]", "[0,8]"), HasSubstr("dtype is 4"));
  EXPECT_THAT(entry("\"F32\"", "2", "[0,8]"), HasSubstr("shape is 2"));
  for (const char* size : {"-1", "2.0", "\"2\"", "null", "18446744073709551615", "1e30"}) {
    EXPECT_THAT(entry("\"F32\"", std::string("[") + size + "]", "[0,8]"), HasSubstr("a size is accepted"))
        << size;
  }
  EXPECT_THAT(entry("\"F32\"", "[3]", "[0,8]"),
              HasSubstr("data_offsets [0,8] hold 8 bytes, shape [3] of F32 needs 12"));
  EXPECT_THAT(entry("\"F32\"", "[2]", "[8,0]"), HasSubstr("end before they begin"));
  for (const char* offsets :
       {"[0]", "[0,8,8]", "{}", "[0,-8]", "[0,8.0]", "[null,8]", "[0,18446744073709551615]", "8"}) {
    EXPECT_THAT(entry("\"F32\"", "[2]", offsets), HasSubstr("[begin, end] is accepted")) << offsets;
  }
  EXPECT_THAT(entry("\"F4\"", "[3]", "[0,1]"), HasSubstr("ends inside a byte"));
  EXPECT_THAT(entry("\"F32\"", "[2]", "[8,16]"), HasSubstr("the file is cut"));
  EXPECT_THAT(entry("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"), HasSubstr("overflows"));
  EXPECT_THAT(entry("\"U8\"", "[1152921504606846975]", "[0,1152921504606846975]"),
              HasSubstr("the file is cut"));
}

TEST_F(SafetensorsTest, RefusesShapesWhoseProductOverflows) {
  for (const char* shape :
       {"[4294967296,4294967296]", "[4294967296,4294967296,4294967296]", "[9223372036854775807,2]",
        "[4611686018427387904]", "[9223372036854775807,9223372036854775807,0]", "[2305843009213693952,2]",
        "[3,6148914691236517206]"}) {
    EXPECT_THAT(
        header_message(std::string(R"({"t":{"dtype":"F32","shape":)") + shape + R"(,"data_offsets":[0,8]}})"),
        HasSubstr("overflows 64 bits"))
        << shape;
  }
}

TEST_F(SafetensorsTest, RefusesHolesAndOverlaps) {
  const auto two = [&](const std::string& a, const std::string& b) {
    return header_message(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + a +
                              R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + b + "}}",
                          12);
  };
  EXPECT_THAT(two("[0,4]", "[8,12]"), AllOf(HasSubstr("tensor \"b\" begins at offset"), HasSubstr("a hole")));
  EXPECT_THAT(two("[8,12]", "[4,8]"), AllOf(HasSubstr("tensor \"b\""), HasSubstr("a hole")));
  EXPECT_THAT(two("[0,4]", "[2,6]"), AllOf(HasSubstr("tensor \"b\""), HasSubstr("overlaps")));
  EXPECT_THAT(two("[0,4]", "[0,4]"), HasSubstr("overlaps"));
  EXPECT_THAT(two("[0,4]", "[4,8]"), HasSubstr("the tensors end at"));
  EXPECT_THAT(header_message("{}", 1), HasSubstr("the tensors end at"));
}

TEST_F(SafetensorsTest, ReadsOrRefusesWhateverTheBytesAre) {
  const std::string bytes = valid();
  const char* given = std::getenv("COPPICE_TEST_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("COPPICE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const std::string tokens[] = {"0",
                                "9",
                                "-",
                                "[",
                                "]",
                                "{",
                                "}",
                                ",",
                                "\"",
                                ":",
                                "\\",
                                "1e9",
                                "F32",
                                "null",
                                "\xff",
                                std::string(1, '\0'),
                                "18446744073709551615",
                                "\"shape\"",
                                " ",
                                "\n"};
  int opened = 0, refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string mutated = bytes;
    for (uint64_t changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % mutated.size();
      switch (random() % 6) {
        case 0:
          mutated[at] = char(random());
          break;
        case 1:
          mutated[at] = char(mutated[at] ^ (1 << random() % 8));
          break;
        case 2:
          mutated.erase(at, 1 + random() % 8);
          break;
        case 3:
          mutated.insert(at, tokens[random() % std::size(tokens)]);
          break;
        case 4:
          mutated.replace(at, 1, tokens[random() % std::size(tokens)]);
          break;
        case 5:
          mutated.insert(at, mutated.substr(random() % mutated.size(), random() % 64));
          break;
      }
      if (mutated.empty()) mutated = "x";
    }
    put(path_, mutated);
    try {
      const SafetensorsFile file = SafetensorsFile::open(path_);
      int64_t bytes_seen = 0;
      unsigned sum = 0;
      for (const std::string& name : file.names()) {
        try {
          const TensorView& tensor = file.tensor(name);
          ASSERT_EQ(tensor.bytes.size(), uint64_t(element_count(tensor.shape)) * dtype_size(tensor.dtype));
          for (std::byte byte : tensor.bytes) sum += unsigned(byte);
          bytes_seen += int64_t(tensor.bytes.size());
        } catch (const Error& error) {
          ASSERT_EQ(error.code(), ErrorCode::kUnsupported);
        }
      }
      ASSERT_LE(bytes_seen, file.bytes());
      ASSERT_LE(sum, 255u * unsigned(mutated.size()));
      ++opened;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), StartsWith(path_ + ": "));
      ASSERT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
      ++refused;
    }
  }
  EXPECT_GT(opened, 10);  // changes in the data only
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace coppice
