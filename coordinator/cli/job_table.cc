#include "coordinator/cli/job_table.h"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

namespace coppice {
namespace {

std::string number(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

}  // namespace

int name_width(const std::vector<std::string>& names) {
  constexpr size_t kLeast = 32;
  size_t width = kLeast;
  for (const std::string& name : names) width = std::max(width, name.size());
  return int(width);
}

void print_job_table(const std::vector<JobRow>& rows) {
  std::vector<std::string> names;
  for (const JobRow& row : rows) names.push_back(row.name);
  const int width = name_width(names);
  std::printf("%-*s %-10s %13s %9s %9s %12s %12s\n", width, "job", "state", "step", "loss", "eval",
              "parameters", "tokens");
  for (const JobRow& row : rows) {
    const std::string step = fmt::format("{}/{}", row.step, row.total_steps);
    std::printf("%-*s %-10s %13s %9s %9s %12lld %12lld%s%s\n", width, row.name.c_str(), row.state.c_str(),
                step.c_str(), number(row.loss).c_str(), number(row.eval_loss).c_str(),
                static_cast<long long>(row.trainable_parameters), static_cast<long long>(row.tokens),
                row.reason.empty() ? "" : "  ", row.reason.c_str());
  }
}

}  // namespace coppice
