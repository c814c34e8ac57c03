#pragma once
// Reads a configuration object key by key, so that nothing is ignored and every error names its field: a
// wrong type, a value out of range, and, at the end, a key that nobody asked for, with the nearest one that
// exists.
//
//   Keys keys(json, "jobs[0].train");
//   args.learning_rate = keys.number("learning_rate", 5e-5, {.minimum = 0});
//   keys.neutral("fp16", false);     // a key of the ecosystem that is accepted at this value only
//   keys.finish();
//
// Thread: one. Errors: kInvalid; kUnsupported from neutral().

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/io/json.h"

namespace coppice {

struct Range {
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool open_minimum = false;  // the minimum itself is refused
};

class Keys {
 public:
  // json: an object (else kInvalid naming where). where: what errors call the object, "jobs[0].train" or
  // "a/config.json: ". Both are kept by copy.
  Keys(Json json, std::string where);

  // A key that is absent or null gives the default. Numbers written as strings are refused; 2e-4 and "2e-4"
  // differ, but YAML's plain 2e-4 arrives here as a number.
  double number(std::string_view key, double fallback, Range range = {});
  int64_t integer(std::string_view key, int64_t fallback, Range range = {});
  bool boolean(std::string_view key, bool fallback);
  std::string text(std::string_view key, std::string_view fallback);
  // One of the choices; the error lists them.
  std::string choice(std::string_view key, std::string_view fallback,
                     std::initializer_list<std::string_view> choices);
  std::optional<double> optional_number(std::string_view key, Range range = {});
  std::optional<int64_t> optional_integer(std::string_view key, Range range = {});
  std::optional<std::string> optional_text(std::string_view key);
  std::vector<std::string> texts(std::string_view key);  // a list of strings, or one string; absent: empty
  std::vector<int64_t> integers(std::string_view key);   // a list of whole numbers, or one; absent: empty
  const Json* value(std::string_view key);               // anything; nullptr where absent or null
  bool has(std::string_view key) const;                  // present and not null; does not count as asked for

  // Accepted when absent, null or equal to the neutral value (or one of them); else refused by name as
  // unsupported.
  void neutral(std::string_view key, const Json& value);
  void neutral(std::string_view key, std::initializer_list<Json> values);
  // Known, but never meaningful here (e.g. a path where the ecosystem writes where it came from): accepted at
  // any value.
  void informative(std::string_view key);

  void finish();  // throws for a key that nobody asked for, suggesting the nearest that was asked for

  const std::string& where() const { return where_; }
  std::string path(std::string_view key) const;  // "jobs[0].train.learning_rate"

 private:
  const Json* find(std::string_view key);
  Json json_;
  std::string where_;
  std::set<std::string, std::less<>> asked_;
};

// The candidate nearest to word (edit distance at most a third of its length, at least 2), or empty.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace coppice
