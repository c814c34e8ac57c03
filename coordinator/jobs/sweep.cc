#include "coordinator/jobs/sweep.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "common/base/error.h"
#include "common/io/keys.h"

namespace coppice {
namespace {

constexpr size_t kMaxJobs = 10000;

// The shortest decimal text that reads back as value, 1e-4 rather than 1e-04 or 0.0001.
std::string shortest(double value) {
  char text[64];
  const auto plain = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed);
  const std::string fixed = plain.ec == std::errc() ? std::string(text, plain.ptr) : std::string();
  const auto result = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  std::string scientific(text, result.ptr);
  const size_t exponent = scientific.find('e') + 1;
  if (scientific[exponent] == '+') scientific.erase(exponent, 1);
  const size_t digits = exponent + (scientific[exponent] == '-');
  while (scientific[digits] == '0' && digits + 1 < scientific.size()) scientific.erase(digits, 1);
  return !fixed.empty() && fixed.size() <= scientific.size() ? fixed : scientific;
}

// A value as a part of a job's name, which is a folder's name.
std::string value_text(const Json& value, const std::string& where) {
  if (value.is_number_float()) return shortest(value.get<double>());
  if (value.is_array()) {
    std::string text;
    for (const Json& element : value) {
      if (element.is_structured()) {
        throw invalid("{} holds {}; a number, a string, true, false, null or a list of them is accepted",
                      where, shown(value));
      }
      if (!text.empty()) text += '+';
      text += value_text(element, where);
    }
    return text.empty() ? "none" : text;
  }
  if (value.is_object()) {
    throw invalid("{} holds {}; a number, a string, true, false, null or a list of them is accepted", where,
                  shown(value));
  }
  if (!value.is_string()) return value.dump();
  std::string text = value.get<std::string>();
  for (char& c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       std::string_view("._@=,+-").find(c) != std::string_view::npos;
    if (!plain) c = '-';
  }
  return text;
}

struct Axis {
  std::string path;
  std::vector<std::string> segments;
  const Json* values;
};

Axis read_axis(const std::string& path, const Json& values, const std::string& where) {
  Axis axis = {path, {}, &values};
  for (size_t at = 0; at <= path.size();) {
    const size_t dot = std::min(path.find('.', at), path.size());
    axis.segments.push_back(path.substr(at, dot - at));
    at = dot + 1;
  }
  const std::string& first = axis.segments.front();
  const bool block = first == "train" || first == "data" || first == "method";
  const bool key = first == "init_adapter" || first == "priority";
  const bool empty = std::find(axis.segments.begin(), axis.segments.end(), "") != axis.segments.end();
  if (empty || !(block ? axis.segments.size() > 1 : key && axis.segments.size() == 1)) {
    throw invalid("{} is no key of a job; one like train.learning_rate or method.r is accepted", where);
  }
  if (!values.is_array() || values.empty()) {
    throw invalid("{} is {}; a list of at least one value is accepted", where, shown(values));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (values[i] == values[j]) throw invalid("{} holds {} twice", where, shown(values[i]));
    }
  }
  return axis;
}

void set_value(Json& job, const Axis& axis, const Json& value, const std::string& where) {
  Json* at = &job;
  for (const std::string& segment : axis.segments) {
    if (at->is_null()) *at = Json::object();
    if (!at->is_object()) {
      throw invalid("{} leads through {}, which is no object of keys in the swept job", where, shown(*at));
    }
    at = &(*at)[segment];
  }
  *at = value;
}

std::vector<Json> expand_one(std::vector<Json> jobs, const Json& sweep, const std::string& where) {
  Keys keys(sweep, where);
  const std::string of = keys.text("of", "");
  const Json* over = keys.value("over");
  keys.finish();
  std::vector<std::string> names;
  for (const Json& job : jobs) names.push_back(job.value("name", ""));
  const auto found = std::find(names.begin(), names.end(), of);
  if (of.empty() || found == names.end()) {
    const std::string near = nearest(of, names);
    throw invalid("{} is {}; the name of a job is accepted{}", keys.path("of"), shown(std::string_view(of)),
                  near.empty() ? "" : ", such as " + near);
  }
  if (!over || !over->is_object() || over->empty()) {
    throw invalid("{} is {}; an object with a list of values for each key is accepted", keys.path("over"),
                  over ? shown(*over) : "missing");
  }
  std::vector<Axis> axes;
  size_t points = 1;
  for (const auto& [path, values] : over->items()) {
    axes.push_back(read_axis(path, values, keys.path("over") + "." + path));
    points *= values.size();
    if (points + jobs.size() > kMaxJobs) {
      throw invalid("{} makes more than {} jobs", keys.path("over"), kMaxJobs);
    }
  }
  const Json base = *(jobs.begin() + (found - names.begin()));
  const auto place = jobs.erase(jobs.begin() + (found - names.begin()));
  std::vector<Json> grid;
  for (size_t point = 0; point < points; ++point) {
    // The last axis runs fastest.
    Json job = base;
    std::string name;
    size_t stride = points;
    for (const Axis& axis : axes) {
      stride /= axis.values->size();
      const Json& value = (*axis.values)[point / stride % axis.values->size()];
      const std::string at = keys.path("over") + "." + axis.path;
      set_value(job, axis, value, at);
      name += (name.empty() ? "@" : ",") + axis.path + "=" + value_text(value, at);
    }
    job["name"] = of + name;
    grid.push_back(std::move(job));
  }
  jobs.insert(place, std::make_move_iterator(grid.begin()), std::make_move_iterator(grid.end()));
  return jobs;
}

}  // namespace

std::vector<Json> expand_sweep(const std::vector<Json>& jobs, const Json& sweep, const std::string& where) {
  if (!sweep.is_array()) return expand_one(jobs, sweep, where);
  // Each of a list sees what those before it made, so that one may sweep what another has.
  std::vector<Json> expanded = jobs;
  for (size_t i = 0; i < sweep.size(); ++i) {
    expanded = expand_one(std::move(expanded), sweep[i], where + "[" + std::to_string(i) + "]");
  }
  return expanded;
}

}  // namespace coppice
