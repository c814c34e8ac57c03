#include "tests/contract/method/examples.h"

namespace coppice {

TestJob ExampleJob::at_version_0(Stage& whole, uint64_t seed) const {
  TestJob start = job;
  for (NumberedTensor& made : whole.initial_tensors(*job.method, seed)) {
    start.tensors[job.method->tensors()[size_t(made.number)].name] = std::move(made.tensor);
  }
  return start;
}

std::vector<ExampleJob> example_jobs(const BackboneConfig& config) {
  std::vector<ExampleJob> jobs;
  for (const Method* method : methods()) {
    const std::vector<MethodExample> examples = method->examples();
    EXPECT_FALSE(examples.empty()) << method->peft_type();
    for (size_t e = 0; e < examples.size(); ++e) {
      const std::string name = std::string(method->peft_type()) + std::to_string(e);
      TestJob job = make_job(name, configure_method(examples[e].keys, config, name));
      job.lengths = {int64_t(3 + jobs.size() % 5), 1, int64_t(2 + jobs.size() % 3)};
      jobs.push_back({examples[e], std::move(job)});
    }
  }
  return jobs;
}

std::vector<MicroBatch> one_of_each(const std::vector<ExampleJob>& jobs, int64_t number) {
  std::vector<MicroBatch> pack;
  for (const ExampleJob& example : jobs) pack.push_back({&example.job, number});
  return pack;
}

}  // namespace coppice
