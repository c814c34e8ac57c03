#include "coordinator/jobs/data_arguments.h"

#include <cmath>
#include <filesystem>

#include "common/base/error.h"
#include "common/io/keys.h"
#include "coordinator/jobs/prompt_template.h"

namespace coppice {

std::string absolute_path(const std::string& path, const std::string& folder, const std::string& where) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw invalid("{} is {}; a path is accepted", where, shown(std::string_view(path)));
  }
  return (std::filesystem::absolute(folder) / path).lexically_normal().string();
}

DataArguments read_data_arguments(const Json& json, const std::string& where, const std::string& folder,
                                  bool complete) {
  Keys keys(json, where);
  DataArguments data;
  if (const auto train = keys.optional_text("train")) {
    data.train = absolute_path(*train, folder, keys.path("train"));
  } else if (complete) {
    throw invalid("{} is missing; the path of a JSONL file is accepted", keys.path("train"));
  }
  if (const auto eval = keys.optional_text("eval"))
    data.eval = absolute_path(*eval, folder, keys.path("eval"));
  data.eval_split = keys.number("eval_split", 0, {.minimum = 0, .maximum = 1e9});
  if (data.eval_split >= 1 && data.eval_split != std::floor(data.eval_split)) {
    throw invalid("{} is {}; a share below 1 or a whole number of rows is accepted", keys.path("eval_split"),
                  data.eval_split);
  }
  if (data.eval && data.eval_split > 0) {
    throw invalid("{} and {} are both given; one is accepted", keys.path("eval"), keys.path("eval_split"));
  }
  data.max_length = keys.integer("max_length", data.max_length, {.minimum = 1, .maximum = 1e9});
  const std::string on_long = keys.choice("on_long", "error", {"error", "truncate", "drop"});
  data.on_long = on_long == "error" ? OnLong::kError : on_long == "drop" ? OnLong::kDrop : OnLong::kTruncate;
  const std::string loss_on = keys.choice("loss_on", "completion", {"completion", "all"});
  data.loss_on = loss_on == "all" ? LossOn::kAll : LossOn::kCompletion;
  data.shuffle = keys.boolean("shuffle", data.shuffle);
  data.prompt_template = keys.optional_text("template");
  if (data.prompt_template) check_template(*data.prompt_template, keys.path("template"));
  keys.neutral("packing",
               false);  // of TRL: sequences are never joined, and packs hold them without padding anyway
  keys.finish();
  return data;
}

Json data_keys(const DataArguments& data) {
  constexpr const char* kOnLong[] = {"error", "truncate", "drop"};
  constexpr const char* kLossOn[] = {"completion", "all"};
  Json keys = Json::object();
  keys["train"] = data.train;
  keys["eval"] = data.eval ? Json(*data.eval) : Json();
  keys["eval_split"] = data.eval_split;
  keys["max_length"] = data.max_length > 0 ? Json(data.max_length) : Json();
  keys["on_long"] = kOnLong[size_t(data.on_long)];
  keys["loss_on"] = kLossOn[size_t(data.loss_on)];
  keys["shuffle"] = data.shuffle;
  keys["template"] = data.prompt_template ? Json(*data.prompt_template) : Json();
  return keys;
}

}  // namespace coppice
