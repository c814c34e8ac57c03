#include "coordinator/api/submission.h"

#include "common/base/error.h"
#include "coordinator/jobs/job_file.h"

namespace coppice {
namespace {

// The server's folder means nothing to a client.
void check_absolute(const Json& object, const char* key, const std::string& where) {
  if (!object.is_object()) return;  // refused by its name later
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string()) return;
  if (!found->get_ref<const std::string&>().starts_with('/')) {
    throw invalid("{}.{} is {}; an absolute path is accepted from a client", where, key, shown(*found));
  }
}

}  // namespace

Submission make_submission(const JobFile& file) {
  Submission submission{file.backbone, {}};
  for (const JobSpec& job : file.jobs) {
    try {
      submission.jobs.push_back(job.keys.dump());
    } catch (const Json::type_error&) {
      throw invalid(
          "{}: jobs.{}: holds a path or text that is not UTF-8; such jobs cannot be submitted to a server",
          file.path, job.name);
    }
  }
  return submission;
}

JobFile read_submission(const Submission& submission) {
  Json file = {{"backbone", submission.backbone}, {"jobs", Json::array()}};
  check_absolute(file, "backbone", "submit: the job file");
  for (size_t i = 0; i < submission.jobs.size(); ++i) {
    const std::string where = fmt::format("submit: jobs[{}]", i);
    Json job = parse_json(submission.jobs[i], where);
    check_absolute(job, "init_adapter", where);
    if (job.is_object() && job.contains("data")) {
      check_absolute(job["data"], "train", where + ".data");
      check_absolute(job["data"], "eval", where + ".data");
    }
    file["jobs"].push_back(std::move(job));
  }
  return parse_job_file(file, "submit", "/");
}

}  // namespace coppice
