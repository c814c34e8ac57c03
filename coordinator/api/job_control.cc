#include "coordinator/api/job_control.h"

namespace coppice {

bool has_ended(JobState state) {
  return state == JobState::kDone || state == JobState::kFailed || state == JobState::kCancelled;
}

}  // namespace coppice
