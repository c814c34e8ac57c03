#pragma once
// The table that `coppice jobs` prints, whether of a run folder or of a server. Thread: main. Errors: none.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace coppice {

struct JobRow {
  std::string name;
  std::string state;
  int64_t step = 0, total_steps = 0;
  std::optional<double> loss, eval_loss;
  int64_t trainable_parameters = 0;
  int64_t tokens = 0;  // trained on
  std::string reason;  // of a failure
};

int name_width(const std::vector<std::string>& names);  // of a column that cuts none of them
void print_job_table(const std::vector<JobRow>& rows);

}  // namespace coppice
