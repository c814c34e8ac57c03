// What a config says of its tensors, for every registered method: names, places, counts, and the way to HF
// files and back.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/base/error.h"
#include "tests/contract/method/examples.h"

namespace coppice {
namespace {

class MethodManifestTest : public testing::Test {
 protected:
  TinyBackbone backbone;
  std::vector<ExampleJob> jobs = example_jobs(backbone.config());

  static std::vector<Tensor> tensors_of(const TestJob& job) {
    std::vector<Tensor> tensors;
    for (const TensorSpec& spec : job.method->tensors()) tensors.push_back(job.tensors.at(spec.name));
    return tensors;
  }
};

TEST_F(MethodManifestTest, FindsEveryMethodByItsName) {
  for (const Method* method : methods()) EXPECT_EQ(&find_method(method->peft_type()), method);
}

TEST_F(MethodManifestTest, NamesEachTensorOnceAndPlacesItInOrder) {
  for (const auto& [example, job] : jobs) {
    std::set<std::string> names;
    int64_t layer = -1, lowest = backbone.config().layers, count = 0;
    ASSERT_FALSE(job.method->tensors().empty()) << job.name;
    for (const TensorSpec& spec : job.method->tensors()) {
      EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
      EXPECT_GE(spec.layer, layer) << spec.name;
      EXPECT_LE(spec.layer, backbone.config().layers) << spec.name;
      EXPECT_GE(spec.shape.size(), 1u);
      EXPECT_LE(spec.shape.size(), 2u);
      layer = spec.layer;
      lowest = std::min(lowest, layer);
      count += element_count(spec.shape);
    }
    EXPECT_EQ(job.method->lowest_layer(), lowest) << job.name;
    EXPECT_EQ(job.method->trainable_parameters(), count) << job.name;
  }
}

TEST_F(MethodManifestTest, GoesToAFileAndBackWithEqualBits) {
  for (const auto& [example, job] : jobs) {
    const std::vector<Tensor> tensors = tensors_of(job);
    std::map<std::string, Tensor> file;
    int64_t count = 0;
    for (auto& [name, tensor] : job.method->to_hf(tensors)) {
      count += element_count(tensor.shape);
      EXPECT_TRUE(file.emplace(name, std::move(tensor)).second) << name;
    }
    EXPECT_EQ(count, job.method->trainable_parameters()) << job.name;
    const auto back = job.method->from_hf([&](const std::string& name) { return file.at(name); });
    ASSERT_EQ(back.size(), tensors.size()) << job.name;
    for (size_t t = 0; t < tensors.size(); ++t) {
      EXPECT_EQ(back[t].shape, tensors[t].shape) << job.name;
      EXPECT_EQ(back[t].values, tensors[t].values) << job.method->tensors()[t].name;
    }
  }
}

TEST_F(MethodManifestTest, RefusesTensorsOfAnotherShape) {
  for (const auto& [example, job] : jobs) {
    try {
      job.method->from_hf([](const std::string&) { return Tensor({3, 5, 7}); });
      ADD_FAILURE() << job.name << " took a tensor of three dimensions";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalid);
      EXPECT_NE(std::string(error.what()).find("[3, 5, 7]"), std::string::npos) << error.what();
    }
  }
}

TEST_F(MethodManifestTest, ReadsItsOwnExportedConfig) {
  for (const auto& [example, job] : jobs) {
    const Json written = job.method->hf_config();
    const auto again = configure_method(parse_json(written.dump(), "config"), backbone.config(), "config");
    ASSERT_EQ(again->tensors().size(), job.method->tensors().size()) << job.name;
    for (size_t t = 0; t < again->tensors().size(); ++t) {
      const TensorSpec &a = again->tensors()[t], &b = job.method->tensors()[t];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.hf_name, b.hf_name);
      EXPECT_EQ(a.layer, b.layer) << a.name;
      EXPECT_EQ(a.shape, b.shape) << a.name;
      EXPECT_EQ(a.initial.kind, b.initial.kind) << a.name;
      EXPECT_EQ(a.initial.scale, b.initial.scale) << a.name;
    }
    EXPECT_EQ(again->hf_config(), written) << job.name;
    EXPECT_EQ(again->virtual_rows(), job.method->virtual_rows());
    EXPECT_EQ(again->prefix_rows(), job.method->prefix_rows());
  }
}

TEST_F(MethodManifestTest, RefusesUnknownKeys) {
  for (const auto& [example, job] : jobs) {
    Json keys = example.keys;
    keys["nonsense"] = 1;
    try {
      configure_method(keys, backbone.config(), "method");
      ADD_FAILURE() << job.name << " took an unknown key";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("method.nonsense"), std::string::npos) << error.what();
    }
  }
}

TEST_F(MethodManifestTest, Version0DependsOnSeedAndNameAlone) {
  const auto row = [](int32_t token) { return std::vector<float>(16, float(token)); };
  for (const auto& [example, job] : jobs) {
    for (TensorSpec spec : job.method->tensors()) {
      const Tensor a = initial_value(spec, 1, row);
      EXPECT_EQ(a.shape, spec.shape);
      EXPECT_EQ(initial_value(spec, 1, row).values, a.values) << spec.name;
      if (spec.initial.kind == Initial::Kind::kZeros || spec.initial.kind == Initial::Kind::kOnes) continue;
      EXPECT_NE(initial_value(spec, 2, row).values, a.values) << spec.name;
      spec.name += "'";
      EXPECT_NE(initial_value(spec, 1, row).values, a.values) << spec.name;
    }
  }
}

}  // namespace
}  // namespace coppice
