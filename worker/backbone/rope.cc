#include "worker/backbone/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/base/error.h"

namespace coppice {
namespace {

constexpr Range kPositive = {.minimum = 0, .open_minimum = true};
constexpr Range kTheta = {.minimum = 1, .open_minimum = true};

double required(Keys& keys, std::string_view key) {
  const std::optional<double> value = keys.optional_number(key, kPositive);
  if (!value)
    throw invalid("{} is missing; this type of rotary embedding needs a number above 0", keys.path(key));
  return *value;
}

Rope::Type read_type(Keys& keys) {
  const auto old_name = keys.optional_text("type");
  const std::string name = keys.text("rope_type", old_name.value_or("default"));
  if (old_name && *old_name != name) {
    throw invalid("{} is {}, but {} is {}; they must agree", keys.path("rope_type"),
                  shown(std::string_view(name)), keys.path("type"), shown(std::string_view(*old_name)));
  }
  if (name == "default") return Rope::Type::kDefault;
  if (name == "linear") return Rope::Type::kLinear;
  if (name == "dynamic") return Rope::Type::kDynamic;
  if (name == "llama3") return Rope::Type::kLlama3;
  if (name == "yarn") return Rope::Type::kYarn;
  throw unsupported("{} is {}; default, linear, dynamic, llama3 and yarn are supported",
                    keys.path(old_name ? "type" : "rope_type"), shown(std::string_view(name)));
}

void read_llama3(Keys& keys, Rope& rope) {
  rope.factor = required(keys, "factor");
  rope.low_freq_factor = required(keys, "low_freq_factor");
  rope.high_freq_factor = required(keys, "high_freq_factor");
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    throw invalid("{} is {}; a number above low_freq_factor, {}, is accepted", keys.path("high_freq_factor"),
                  rope.high_freq_factor, rope.low_freq_factor);
  }
}

// A zero here means what an absent key means, as in transformers.
std::optional<double> nonzero(std::optional<double> value) {
  return value == 0.0 ? std::nullopt : value;
}

void read_yarn(Keys& keys, int64_t max_positions, Rope& rope) {
  constexpr Range kAtLeast0 = {.minimum = 0};
  const auto factor = keys.optional_number("factor", kPositive);
  rope.factor = factor.value_or(double(max_positions) / double(rope.original_max_positions));
  rope.attention_factor = keys.optional_number("attention_factor", kAtLeast0);
  rope.mscale = nonzero(keys.optional_number("mscale", kAtLeast0));
  rope.mscale_all_dim = nonzero(keys.optional_number("mscale_all_dim", kAtLeast0));
  rope.beta_fast = nonzero(keys.optional_number("beta_fast", kAtLeast0)).value_or(32);
  rope.beta_slow = nonzero(keys.optional_number("beta_slow", kAtLeast0)).value_or(1);
  rope.truncate = keys.boolean("truncate", true);
}

// What stands in the object of the rotary embedding itself. outer_original: original_max_position_embeddings
// beside it.
Rope read_parameters(Keys& keys, std::optional<double> outer_theta, std::optional<int64_t> outer_original,
                     int64_t max_positions) {
  Rope rope;
  rope.type = read_type(keys);
  const auto theta = keys.optional_number("rope_theta", kTheta);
  if (theta && outer_theta && *theta != *outer_theta) {
    throw invalid("{} is {}, but rope_theta beside it is {}; they must agree", keys.path("rope_theta"),
                  *theta, *outer_theta);
  }
  rope.theta = theta.value_or(outer_theta.value_or(10000));
  keys.neutral("partial_rotary_factor", 1.0);

  const auto original =
      keys.optional_integer("original_max_position_embeddings", {.minimum = 1, .maximum = 1e12});
  if (original && outer_original && *original != *outer_original) {
    throw invalid("{} is {}, but the key of that name beside it is {}; they must agree",
                  keys.path("original_max_position_embeddings"), *original, *outer_original);
  }
  const auto given = original ? original : outer_original;
  rope.original_max_positions = given.value_or(max_positions);
  const bool uses_original = rope.type == Rope::Type::kLlama3 || rope.type == Rope::Type::kYarn;
  if (!uses_original && rope.original_max_positions != max_positions) {
    throw unsupported("{} is {}; with this rope_type only {}, max_position_embeddings, is supported",
                      keys.path("original_max_position_embeddings"), *given, max_positions);
  }

  switch (rope.type) {
    case Rope::Type::kDefault:
      keys.neutral("factor", 1.0);
      break;
    case Rope::Type::kLinear:
    case Rope::Type::kDynamic:
      rope.factor = required(keys, "factor");
      break;
    case Rope::Type::kLlama3:
      read_llama3(keys, rope);
      break;
    case Rope::Type::kYarn:
      read_yarn(keys, max_positions, rope);
      break;
  }
  keys.finish();
  return rope;
}

// --- frequencies. transformers computes them in float32, step by step; so do these, in the same order. Only
// the power is taken in double and rounded, since libraries differ in its last bit.

float power(float base, float exponent) {
  return float(std::pow(double(base), double(exponent)));
}

// theta^(2i / dim) for every pair i of a head.
std::vector<float> periods(float theta, int64_t dim) {
  std::vector<float> result;
  for (int64_t i = 0; i < dim; i += 2) result.push_back(power(theta, float(i) / float(dim)));
  return result;
}

std::vector<float> inverse_of(std::vector<float> values) {
  for (float& value : values) value = 1.0f / value;
  return values;
}

// NTK-aware scaling by length: theta grows with the sequence beyond the trained positions.
float dynamic_theta(const Rope& rope, int64_t dim, int64_t max_positions, int64_t length) {
  const double exponent = double(dim) / double(dim - 2);
  if (length <= max_positions) {
    return float(rope.theta * std::pow(rope.factor - (rope.factor - 1), exponent));
  }
  const float ratio = float(rope.factor) * float(length) / float(max_positions);
  return float(rope.theta) * power(ratio - float(rope.factor - 1), float(exponent));
}

// Llama 3.1: long waves are slowed by factor, short ones stay, those between are blended.
void scale_llama3(const Rope& rope, std::vector<float>& inverse) {
  const double original = double(rope.original_max_positions);
  const float longest = float(original / rope.low_freq_factor),
              shortest = float(original / rope.high_freq_factor);
  const float factor = float(rope.factor), low = float(rope.low_freq_factor);
  const float span = float(rope.high_freq_factor - rope.low_freq_factor);
  for (float& frequency : inverse) {
    const float wave =
        1.0f / frequency * float(2 * std::numbers::pi);  // torch divides a number by a tensor so
    if (wave > longest) {
      frequency = frequency / factor;
    } else if (!(wave < shortest)) {
      const float smooth = (1.0f / wave * float(original) - low) / span;
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

double yarn_scale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

// YaRN (Peng et al., 2023): a ramp over the pairs between those kept and those slowed by factor.
RopeFrequencies yarn(const Rope& rope, int64_t dim) {
  const auto correction = [&](double rotations) {
    return double(dim) * std::log(double(rope.original_max_positions) / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast), high = correction(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, double(dim - 1));
  if (low == high) high += 0.001;

  RopeFrequencies result;
  const std::vector<float> period = periods(float(rope.theta), dim);
  for (size_t i = 0; i < period.size(); ++i) {
    const float ramp = std::clamp((float(i) - float(low)) / float(high - low), 0.0f, 1.0f);
    const float kept = 1 - ramp;
    result.inverse.push_back(1.0f / (float(rope.factor) * period[i]) * (1 - kept) + 1.0f / period[i] * kept);
  }
  if (rope.attention_factor) {
    result.scale = float(*rope.attention_factor);
  } else if (rope.mscale && rope.mscale_all_dim) {
    result.scale =
        float(yarn_scale(rope.factor, *rope.mscale) / yarn_scale(rope.factor, *rope.mscale_all_dim));
  } else {
    result.scale = float(yarn_scale(rope.factor, 1));
  }
  return result;
}

}  // namespace

Rope read_rope(Keys& keys, int64_t max_positions) {
  const auto theta = keys.optional_number("rope_theta", kTheta);
  const auto original =
      keys.optional_integer("original_max_position_embeddings", {.minimum = 1, .maximum = 1e12});
  keys.neutral("partial_rotary_factor", 1.0);
  const Json* scaling = keys.value("rope_scaling");
  const Json* parameters = keys.value("rope_parameters");
  if (scaling && scaling->empty()) scaling = nullptr;  // {} means none, as in transformers
  if (scaling && parameters && *scaling != *parameters) {
    throw invalid("{} and {} are both given and differ; one of them is accepted", keys.path("rope_scaling"),
                  keys.path("rope_parameters"));
  }
  const Json* given = scaling ? scaling : parameters;
  Keys inner(given ? *given : Json::object(), keys.path(scaling ? "rope_scaling" : "rope_parameters"));
  return read_parameters(inner, theta, original, max_positions);
}

RopeFrequencies rope_frequencies(const BackboneConfig& config, int64_t sequence_length) {
  const Rope& rope = config.rope;
  const int64_t dim = config.head_dim;
  const float theta = float(rope.theta);
  RopeFrequencies result;
  switch (rope.type) {
    case Rope::Type::kDefault:
      result.inverse = inverse_of(periods(theta, dim));
      break;
    case Rope::Type::kLinear:
      result.inverse = inverse_of(periods(theta, dim));
      for (float& frequency : result.inverse) frequency /= float(rope.factor);
      break;
    case Rope::Type::kDynamic:
      result.inverse =
          inverse_of(periods(dynamic_theta(rope, dim, config.max_positions, sequence_length), dim));
      break;
    case Rope::Type::kLlama3:
      result.inverse = inverse_of(periods(theta, dim));
      scale_llama3(rope, result.inverse);
      break;
    case Rope::Type::kYarn:
      result = yarn(rope, dim);
      break;
  }
  return result;
}

}  // namespace coppice
