// A stage's worker whose plans come before, after and beside the versions they name, in every order that the
// channels between ranks allow.

#include "worker/stage_worker.h"

#include <gmock/gmock.h>

#include <map>
#include <optional>

#include "tests/unit/worker/stage_run.h"

namespace coppice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kCoordinator = 0, kStage = 1, kShards[] = {2, 3};
constexpr uint64_t kSeed = 5;
constexpr const char* kLora = R"({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"]})";

std::vector<int64_t> all_tensors(const TestJob& job) {
  std::vector<int64_t> numbers;
  for (size_t i = 0; i < job.method->tensors().size(); ++i) numbers.push_back(int64_t(i));
  return numbers;
}

// One stage that holds the whole backbone. What it tells is noted down, by kind.
class StageWorkerTest : public ::testing::Test {
 protected:
  TestJob& job(const std::string& name, const char* method = kLora) {
    return jobs_.try_emplace(name, make_job(name, method, backbone_.config())).first->second;
  }

  // A shard's part of a version; every version has other values.
  void publish(const TestJob& job, int64_t version, const std::vector<int64_t>& numbers, int shard = 0) {
    proto::AdapterTensors header;
    header.set_job(job.name);
    header.set_version(version);
    header.set_method(job.method->hf_config().dump());
    header.set_seed(kSeed);
    header.set_training(true);
    std::vector<NumberedTensor> tensors;
    for (const int64_t number : numbers) {
      Tensor values = job.tensors.at(job.method->tensors()[size_t(number)].name);
      for (float& value : values.values) value *= 1 + 0.25f * float(version);
      tensors.push_back({number, std::move(values)});
    }
    Message message;
    put_tensors(std::move(tensors), header, message);
    message.kind = proto::PUBLISH;
    message.header = header.SerializeAsString();
    send(kShards[shard], std::move(message));
  }
  void publish(const TestJob& job, int64_t version) { publish(job, version, all_tensors(job)); }

  struct Part {
    const TestJob* job = nullptr;
    int64_t version = 0;
    bool here = true;
  };
  void plan(uint64_t id, const std::vector<Part>& parts) {
    std::vector<MicroBatch> batches;
    for (const Part& part : parts) batches.push_back({part.job, 0});
    BuiltPack built = build_pack(batches, backbone_.config(), false, id);
    PackPlan plan{std::move(built.pack), {}, {}, std::move(built.tokens), std::move(built.targets)};
    for (Segment& segment : plan.pack.segments) {
      const auto part = std::find_if(parts.begin(), parts.end(),
                                     [&](const Part& each) { return each.job->name == segment.job; });
      segment.version = segment.step = part->version;
      plan.ends_step.push_back(true);
      plan.adapter_here.push_back(part->here);
    }
    send(kCoordinator, make_message(proto::PACK_PLAN, to_proto(plan)));
  }

  void drop(const TestJob& job, int64_t version) {
    proto::DropAdapter header;
    header.set_job(job.name);
    header.set_version(version);
    send(kCoordinator, make_message(proto::DROP_ADAPTER, header));
  }

  void send(int from, Message message) {
    ends_[size_t(from)]->send(kStage, std::move(message));
    while (auto arrived = ends_[kStage]->receive()) worker_.take(std::move(*arrived));
  }

  // Works until nothing is ready; the packs whose losses and ends were told, in order.
  std::vector<uint64_t> work() {
    while (worker_.work()) {
    }
    std::vector<uint64_t> done;
    while (auto told = ends_[kCoordinator]->receive()) {
      if (told->kind == proto::PACK_DONE) done.push_back(read_header<proto::PackDone>(*told).pack());
      if (told->kind == proto::PACK_LOSSES) losses_.push_back(read_header<proto::PackLosses>(*told));
      if (told->kind == proto::ADAPTER_READY) {
        const auto ready = read_header<proto::AdapterReady>(*told);
        ready_.push_back(fmt::format("{} {}", ready.job(), ready.version()));
      }
    }
    return done;
  }
  // Gradients that a shard has been sent: version and values by tensor.
  std::map<int64_t, std::vector<float>> gradients(int shard, int64_t version) {
    std::map<int64_t, std::vector<float>> found;
    while (auto message = ends_[size_t(kShards[shard])]->receive()) {
      const auto header = read_header<proto::AdapterTensors>(*message);
      EXPECT_EQ(header.version(), version);
      for (NumberedTensor& each : get_tensors(header, *message))
        found[each.number] = std::move(each.tensor.values);
    }
    return found;
  }

  TinyBackbone backbone_;
  Backend& backend_ = test_backend("ref");
  std::vector<std::unique_ptr<Transport>> ends_ = make_loopback(4);
  Stage stage_{backend_, backbone_.config(), backbone_.folder(), {0, backbone_.config().layers, DType::kF32}};
  Trace trace_;
  StageWorker worker_{*ends_[kStage], backend_, stage_, {kCoordinator, {}, {}}, trace_};
  std::map<std::string, TestJob> jobs_;
  std::vector<proto::PackLosses> losses_;
  std::vector<std::string> ready_;
};

TEST_F(StageWorkerTest, AForwardWaitsForTheVersionThatItsPlanNames) {
  const TestJob& tone = job("tone");
  plan(1, {{&tone, 0}});
  EXPECT_THAT(work(), IsEmpty());
  publish(tone, 0);
  EXPECT_THAT(work(), ElementsAre(1));
  plan(2, {{&tone, 1}});  // version 0 is there, which is not it
  EXPECT_THAT(work(), IsEmpty());
  publish(tone, 1);
  EXPECT_THAT(work(), ElementsAre(2));
  EXPECT_THAT(ready_, ElementsAre("tone 0", "tone 1"));
}

TEST_F(StageWorkerTest, BitsAreTheSameWhicheverComesFirst) {
  const TestJob &tone = job("tone"), &copy = job("copy");
  publish(tone, 0);
  plan(1, {{&tone, 0}});
  EXPECT_THAT(work(), ElementsAre(1));
  const auto tone0 = gradients(0, 0);
  publish(tone, 1);
  plan(2, {{&tone, 1}});
  EXPECT_THAT(work(), ElementsAre(2));
  const auto tone1 = gradients(0, 1);
  ASSERT_FALSE(tone0.empty());
  EXPECT_NE(tone0, tone1);

  drop(tone, 1);
  plan(3, {{&tone, 0}});
  EXPECT_THAT(work(), IsEmpty());
  publish(tone, 0);
  EXPECT_THAT(work(), ElementsAre(3));
  EXPECT_EQ(gradients(0, 0), tone0);
  plan(4, {{&tone, 1}, {&copy, 7, false}});
  EXPECT_THAT(work(), IsEmpty());
  publish(tone, 1);
  EXPECT_THAT(work(), ElementsAre(4));
  EXPECT_EQ(gradients(0, 1), tone1);
}

TEST_F(StageWorkerTest, AForwardWaitsForTheTensorsOfEveryShard) {
  const TestJob& tone = job("tone");
  std::vector<int64_t> parts[2];
  for (const int64_t number : all_tensors(tone)) parts[number % 2].push_back(number);
  plan(1, {{&tone, 0}});
  publish(tone, 0, parts[1], 1);
  EXPECT_THAT(work(), IsEmpty());
  EXPECT_THAT(ready_, IsEmpty());
  publish(tone, 0, parts[0], 0);
  EXPECT_THAT(work(), ElementsAre(1));
  for (int shard : {0, 1}) EXPECT_EQ(gradients(shard, 0).size(), parts[shard].size());
  plan(2, {{&tone, 1}});
  publish(tone, 1, parts[0], 0);  // of the other there is version 0
  EXPECT_THAT(work(), IsEmpty());
  publish(tone, 1, parts[1], 1);
  EXPECT_THAT(work(), ElementsAre(2));
}

TEST_F(StageWorkerTest, ForwardsStayInTheOrderOfTheirPlans) {
  const TestJob &slow = job("slow"), &quick = job("quick");
  publish(quick, 0);
  plan(1, {{&quick, 0}});
  plan(2, {{&slow, 0}, {&quick, 1}});
  plan(3, {{&quick, 1}});
  EXPECT_THAT(work(), ElementsAre(1));
  publish(quick, 1);
  EXPECT_THAT(work(), IsEmpty());  // pack 3 could go, and does not
  publish(slow, 0);
  EXPECT_THAT(work(), ElementsAre(2, 3));
}

TEST_F(StageWorkerTest, AJobWithoutTensorsHereHoldsUpNothing) {
  TestJob bare = job("bare");
  bare.training = false;
  plan(1, {{&bare, 3, false}});
  EXPECT_THAT(work(), ElementsAre(1));
  ASSERT_EQ(losses_.size(), 1u);
  EXPECT_EQ(losses_[0].weighted_losses_size(), 1);
}

TEST_F(StageWorkerTest, AVersionThatWasReplacedIsRefusedRatherThanWaitedFor) {
  const TestJob& tone = job("tone");
  publish(tone, 4);
  plan(9, {{&tone, 3}});
  EXPECT_EQ(message_of([&] { worker_.work(); }),
            "pack 9: it is of version 3 of job tone; version 4 has taken its place");
}

TEST_F(StageWorkerTest, ADropThatWasOvertakenTakesNothingAway) {
  const TestJob& tone = job("tone");
  publish(tone, 0);
  std::vector<int64_t> half = all_tensors(tone), rest;
  rest.assign(half.begin() + 1, half.end());
  half.resize(1);
  // The job left at version 0 and is back at version 1, from two shards.
  publish(tone, 1, half, 0);
  drop(tone, 0);
  publish(tone, 1, rest, 1);
  drop(tone, 0);
  plan(1, {{&tone, 1}});
  EXPECT_THAT(work(), ElementsAre(1));
  drop(tone, 1);
  plan(2, {{&tone, 1}});
  EXPECT_THAT(work(), IsEmpty());  // gone
}

// The first of two stages; rank 2 is the other one.
class FirstStageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    trace_.begin(0);
    proto::AdapterTensors header;
    header.set_job(tone_.name);
    header.set_method(tone_.method->hf_config().dump());
    std::vector<NumberedTensor> tensors;
    for (size_t i = 0; i < tone_.method->tensors().size(); ++i) {
      const TensorSpec& spec = tone_.method->tensors()[i];
      if (stage_.lives_here(spec)) tensors.push_back({int64_t(i), tone_.tensors.at(spec.name)});
    }
    header.set_training(true);
    Message message;
    put_tensors(std::move(tensors), header, message);
    message.kind = proto::PUBLISH;
    message.header = header.SerializeAsString();
    take(std::move(message));
  }

  void plan(uint64_t id) {
    const MicroBatch batch{&tone_, int64_t(id)};
    BuiltPack built = build_pack({batch}, backbone_.config(), false, id);
    rows_ = built.pack.rows;
    PackPlan plan{std::move(built.pack), {false}, {true}, std::move(built.tokens), {}};
    take(make_message(proto::PACK_PLAN, to_proto(plan)));
  }

  void give_back(uint64_t id) {
    proto::RowsHeader header;
    header.set_pack(id);
    header.set_backward(true);
    header.set_rows(rows_);
    header.set_cols(backbone_.config().hidden);
    Message message = make_message(proto::ROWS, header);
    message.payload.push_back(std::make_unique<BytesPayload>(
        std::vector<std::byte>(size_t(rows_ * backbone_.config().hidden) * sizeof(float))));
    take(std::move(message));
  }

  void take(Message message) { worker_.take(std::move(message)); }

  std::string work() {
    if (!worker_.work()) return "nothing";
    const auto spans = trace_.take();
    return fmt::format("{} {}", spans.back().name, spans.back().pack);
  }

  TinyBackbone backbone_;
  Backend& backend_ = test_backend("ref");
  TestJob tone_ = make_job("tone", kLora, backbone_.config());
  std::vector<std::unique_ptr<Transport>> ends_ = make_loopback(3);
  Stage stage_{backend_, backbone_.config(), backbone_.folder(), {0, 1, DType::kF32}};
  Trace trace_;
  StageWorker worker_{*ends_[1], backend_, stage_, {kCoordinator, {}, 2}, trace_};
  int64_t rows_ = 0;
};

TEST_F(FirstStageTest, BackwardsGoFirstUnlessTheNextStageWouldRunOutOfPacks) {
  for (uint64_t id = 1; id <= 6; ++id) plan(id);
  EXPECT_EQ(work(), "forward 1");
  EXPECT_EQ(work(), "forward 2");
  EXPECT_EQ(work(), "forward 3");
  give_back(1);  // the next stage has two left
  EXPECT_EQ(work(), "backward 1");
  give_back(2);  // one is left, which it works on by now
  EXPECT_EQ(work(), "forward 4");
  EXPECT_EQ(work(), "backward 2");
  give_back(3);
  give_back(4);
  EXPECT_EQ(work(), "forward 5");
  EXPECT_EQ(work(), "forward 6");
  EXPECT_EQ(work(), "backward 3");
  EXPECT_EQ(work(), "backward 4");
  EXPECT_EQ(work(), "nothing");
}

}  // namespace
}  // namespace coppice
