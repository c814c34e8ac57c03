#include "coordinator/jobs/job_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "common/base/error.h"
#include "common/io/keys.h"
#include "common/io/yaml.h"
#include "coordinator/jobs/data_arguments.h"
#include "coordinator/jobs/sweep.h"
#include "coordinator/jobs/train_arguments.h"

namespace coppice {
namespace {

constexpr size_t kMaxNameBytes = 200;

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

void check_name(const std::string& name, const std::string& where) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return is_alphanumeric(c) || std::string_view("._@=,+-").find(c) != std::string_view::npos;
  });
  if (name.empty() || !is_alphanumeric(name.front()) || !plain) {
    throw invalid("{} is {}; letters, digits and ._@=,+- are accepted, a letter or digit first", where,
                  shown(std::string_view(name)));
  }
  if (name.size() > kMaxNameBytes) {
    throw invalid("{} is {}, {} bytes; at most {} are accepted", where, shown(std::string_view(name)),
                  name.size(), kMaxNameBytes);
  }
}

Json without_nulls(const Json& object) {
  Json kept = Json::object();
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null()) kept[key] = value;
  }
  return kept;
}

// What a block says itself comes before what it inherits; a null of its own takes an inherited key away.
Json merged(const Json& inherited, const Json& own) {
  Json block = inherited;
  for (const auto& [key, value] : own.items()) block[key] = value;
  return block;
}

const Json* member(const Json& object, std::string_view key) {
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// The object under a key of a file; an empty one where there is none.
Json block_of(const Json& object, std::string_view key, const std::string& where) {
  const Json* block = member(object, key);
  if (!block) return Json::object();
  if (!block->is_object()) {
    throw invalid("{}.{} is {}; an object of keys is accepted", where, key, shown(*block));
  }
  return *block;
}

// Where data is evaluated from is one choice: a job that makes it does not inherit the other one.
Json merged_data(Json inherited, const Json& own) {
  if (member(own, "eval") || member(own, "eval_split")) {
    inherited.erase("eval");
    inherited.erase("eval_split");
  }
  return merged(inherited, own);
}

// Keys of one kind of method mean nothing to another, so a job that names its own kind inherits only from the
// same kind; a job that goes on from an adapter has its method there, and inherits none.
Json merged_method(const Json& inherited, const Json& own, bool from_adapter) {
  const Json* its = member(inherited, "peft_type");
  const Json* mine = member(own, "peft_type");
  const bool other_kind = its && mine && *its != *mine;
  return other_kind || from_adapter ? own : merged(inherited, own);
}

// A job of the file with the defaults under its keys.
Json merge_job(const Json& job, const Json& defaults, const std::string& where) {
  Json whole = job;
  whole["train"] = merged(defaults["train"], block_of(job, "train", where));
  whole["data"] = merged_data(defaults["data"], block_of(job, "data", where));
  whole["method"] = merged_method(defaults["method"], block_of(job, "method", where),
                                  member(job, "init_adapter") != nullptr);
  return whole;
}

// The defaults with all three blocks, each checked by itself, so that an error is named where it stands.
Json read_defaults(const Json* json, const std::string& where, const std::string& folder) {
  Json blocks = {{"train", Json::object()}, {"data", Json::object()}, {"method", Json::object()}};
  if (!json) return blocks;
  Keys keys(*json, where);
  for (auto& [key, block] : blocks.items()) {
    keys.value(key);
    block = block_of(*json, key, where);
  }
  keys.finish();
  read_train_arguments(blocks["train"], where + ".train");
  read_data_arguments(blocks["data"], where + ".data", folder, false);
  return blocks;
}

void check_method(const Json& method, bool from_adapter, const std::string& where) {
  const Json* type = member(method, "peft_type");
  if (!type && from_adapter) return;
  if (!type) {
    throw invalid("{}.peft_type is missing; the kind of method is accepted, such as \"LORA\"", where);
  }
  if (!type->is_string()) {
    throw invalid("{}.peft_type is {}; a string is accepted, such as \"LORA\"", where, shown(*type));
  }
}

void check_evaluation(const JobSpec& job, const std::string& where) {
  if (job.data.eval || job.data.eval_split > 0) return;
  const char* key = job.train.eval_on_start                        ? "eval_on_start"
                    : job.train.eval_strategy != EvalStrategy::kNo ? "eval_strategy"
                    : job.train.eval_steps > 0                     ? "eval_steps"
                                                                   : nullptr;
  if (key == nullptr) return;
  throw invalid(
      "{}.train.{} asks for evaluation, but there is no data for it; {}.data.eval or eval_split gives it",
      where, key, where);
}

// json: a merged job with a checked name.
JobSpec read_job(const Json& json, const std::string& where, const std::string& folder) {
  Keys keys(json, where);
  JobSpec job;
  job.name = keys.text("name", "");
  if (const auto path = keys.optional_text("init_adapter")) {
    job.init_adapter = absolute_path(*path, folder, keys.path("init_adapter"));
  }
  job.priority = keys.integer("priority", 1, {.minimum = 1, .maximum = 1e6});
  const Json* method = keys.value("method");
  const Json* data = keys.value("data");
  const Json* train = keys.value("train");
  keys.finish();
  job.method = without_nulls(method ? *method : Json::object());
  check_method(job.method, job.init_adapter.has_value(), keys.path("method"));
  job.data = read_data_arguments(data ? *data : Json::object(), keys.path("data"), folder, true);
  job.train = read_train_arguments(train ? *train : Json::object(), keys.path("train"));
  check_evaluation(job, where);
  job.keys = {{"name", job.name},
              {"method", job.method},
              {"data", data_keys(job.data)},
              {"train", train_keys(job.train)},
              {"init_adapter", job.init_adapter ? Json(*job.init_adapter) : Json()},
              {"priority", job.priority}};
  return job;
}

// The jobs with the defaults under their keys; names checked.
std::vector<Json> merge_jobs(const Json* json, const Json& defaults, const std::string& where) {
  if (!json || !json->is_array() || json->empty()) {
    throw invalid("{}jobs is {}; a list of at least one job is accepted", where,
                  json ? shown(*json) : "missing");
  }
  std::vector<Json> jobs;
  std::set<std::string> names;
  for (size_t i = 0; i < json->size(); ++i) {
    const std::string number = fmt::format("{}jobs[{}]", where, i);
    Keys keys((*json)[i], number);
    const auto name = keys.optional_text("name");
    if (!name) throw invalid("{}.name is missing; every job has one", number);
    check_name(*name, keys.path("name"));
    if (!names.insert(*name).second) throw invalid("{} is {}, as an earlier job's", keys.path("name"), *name);
    jobs.push_back(merge_job((*json)[i], defaults, where + "jobs." + *name));
  }
  return jobs;
}

}  // namespace

JobFile parse_job_file(const Json& json, const std::string& what, const std::string& folder) {
  const std::string where = what + ": ";
  Keys keys(json, where);
  const auto backbone = keys.optional_text("backbone");
  for (const char* key : {"defaults", "jobs", "sweep"}) keys.value(key);
  keys.finish();
  if (!backbone) {
    throw invalid("{} is missing; the path of a Hugging Face model folder is accepted",
                  keys.path("backbone"));
  }
  JobFile file;
  file.path = what;
  file.backbone = absolute_path(*backbone, folder, keys.path("backbone"));
  const Json defaults = read_defaults(member(json, "defaults"), keys.path("defaults"), folder);
  std::vector<Json> jobs = merge_jobs(member(json, "jobs"), defaults, where);
  if (const Json* sweep = member(json, "sweep")) jobs = expand_sweep(jobs, *sweep, keys.path("sweep"));
  std::set<std::string> names;
  for (const Json& job : jobs) {
    const std::string name = job["name"].get<std::string>();
    check_name(name, keys.path("sweep") + ": a job's name");
    if (!names.insert(name).second) throw invalid("{}sweep makes job {} twice", where, name);
    file.jobs.push_back(read_job(job, where + "jobs." + name, folder));
  }
  return file;
}

namespace {

// Sets what follows a path of keys, making the objects on the way.
void set_path(Json& root, std::string_view path, const Json& value, const std::string& override_text) {
  Json* at = &root;
  for (size_t start = 0; start <= path.size();) {
    const size_t dot = std::min(path.find('.', start), path.size());
    const std::string segment(path.substr(start, dot - start));
    start = dot + 1;
    if (at->is_null()) *at = Json::object();
    if (!at->is_object() || segment.empty()) {
      throw invalid("{}: there is no such key to set", shown(std::string_view(override_text)));
    }
    at = &(*at)[segment];
  }
  *at = value;
}

struct Override {
  std::string_view path;
  Json value;
};

Override split_override(std::string_view text, const std::string& whole) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    throw invalid("{}: KEY=VALUE is accepted, such as defaults.train.max_steps=20",
                  shown(std::string_view(whole)));
  }
  if (equals + 1 == text.size()) {
    throw invalid("{}: has no value; null takes a key away", shown(std::string_view(whole)));
  }
  return {text.substr(0, equals),
          parse_yaml(std::string(text.substr(equals + 1)), "the value of " + shown(std::string_view(whole)))};
}

// text: what follows "jobs."; a job's name may hold dots and equal signs, so it is the longest that fits.
void override_job(Json& file, std::string_view text, const std::string& whole) {
  Json* best = nullptr;
  size_t best_size = 0;
  std::vector<std::string> names;
  Json& jobs = file["jobs"];
  for (size_t i = 0; jobs.is_array() && i < jobs.size(); ++i) {
    if (!jobs[i].is_object()) continue;
    const Json* name = member(jobs[i], "name");
    if (!name || !name->is_string()) continue;
    names.push_back(name->get<std::string>());
    if (text.starts_with(names.back() + ".") && names.back().size() > best_size) {
      best = &jobs[i];
      best_size = names.back().size();
    }
  }
  if (!best) {
    const std::string near = nearest(text.substr(0, text.find_first_of(".=")), names);
    throw not_found("{}: there is no such job{}", shown(std::string_view(whole)),
                    near.empty() ? "" : "; did you mean " + near + "?");
  }
  const Override key = split_override(text.substr(best_size + 1), whole);
  set_path(*best, key.path, key.value, whole);
}

void apply_override(Json& file, const std::string& text) {
  if (text.starts_with("jobs.")) return override_job(file, std::string_view(text).substr(5), text);
  const Override key = split_override(text, text);
  if (key.path != "backbone" && key.path != "sweep" && !key.path.starts_with("defaults.")) {
    throw invalid("{}: backbone, sweep, defaults.KEY or jobs.NAME.KEY can be set",
                  shown(std::string_view(text)));
  }
  set_path(file, key.path, key.value, text);
}

}  // namespace

JobFile read_job_file(const std::string& path, const std::vector<std::string>& overrides) {
  Json json = path.ends_with(".json") ? read_json_file(path) : read_yaml_file(path);
  if (json.is_object()) {
    for (const std::string& text : overrides) apply_override(json, text);
  }
  return parse_job_file(json, path, std::filesystem::absolute(path).parent_path().string());
}

namespace {

bool may_grow(std::string_view block, const std::string& key, const Json& before, const Json& now) {
  if (block != "train" || (key != "max_steps" && key != "num_train_epochs")) return false;
  if (!before.is_number() || !now.is_number()) return false;
  // max_steps of -1 leaves the number to the epochs: not a number that can be raised.
  return before.get<double>() > 0 && now.get<double>() > before.get<double>();
}

bool changes_no_bits(std::string_view block, const std::string& key) {
  return block == "train" &&
         (key == "logging_steps" || key == "save_steps" || key == "gradient_checkpointing");
}

// Files may have moved: what is in them is compared by the fingerprint of the data.
bool says_where(std::string_view block, const std::string& key, const Json& before, const Json& now) {
  return block == "data" && (key == "train" || key == "eval") && before.is_string() && now.is_string();
}

std::string changed_in(std::string_view block, const Json& before, const Json& now) {
  const Json joined = merged(before, now);
  for (const auto& [key, value] : joined.items()) {
    const auto was = before.find(key);
    const auto is = now.find(key);
    const Json before_value = was == before.end() ? Json() : *was;
    const Json now_value = is == now.end() ? Json() : *is;
    if (before_value == now_value || changes_no_bits(block, key)) continue;
    if (may_grow(block, key, before_value, now_value) || says_where(block, key, before_value, now_value))
      continue;
    return std::string(block) + "." + key;
  }
  return {};
}

}  // namespace

std::string changed_key(const Json& before, const Json& now) {
  for (const std::string_view block : {"method", "data", "train"}) {
    const Json* was = member(before, block);
    const Json* is = member(now, block);
    const std::string key = changed_in(block, was ? *was : Json::object(), is ? *is : Json::object());
    if (!key.empty()) return key;
  }
  const Json* was = member(before, "init_adapter");
  const Json* is = member(now, "init_adapter");
  return (was ? *was : Json()) == (is ? *is : Json()) ? std::string() : "init_adapter";
}

}  // namespace coppice
