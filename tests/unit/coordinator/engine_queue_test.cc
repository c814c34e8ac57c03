// A job that waits for memory holds next to none, and reads its data when its turn has come.

#include <gmock/gmock.h>

#include "tests/unit/coordinator/engine_rig.h"

namespace coppice {
namespace {

class EngineQueueTest : public ::testing::Test {
 protected:
  EngineQueueTest() {
    rig_.submit("first", 1'000'000);
    rig_.submit("second", 3);
  }
  Engine& engine() { return rig_.engine(); }
  const JobRun& second() { return engine().job("second"); }
  bool until(Phase phase) {
    return rig_.until([&] { return second().phase == phase; });
  }
  // Once all have ended.
  JobRecord stored(const std::string& name) {
    EXPECT_TRUE(rig_.until([&] { return engine().ended(); }));
    return CheckpointReader(rig_.store()).record(name).value();
  }

  EngineRig rig_{1};
};

TEST_F(EngineQueueTest, AJobThatWaitsHoldsNoData) {
  ASSERT_EQ(second().phase, Phase::kQueued);
  EXPECT_THAT(second().record.reason, ::testing::HasSubstr("does not fit beside 1 other jobs"));
  EXPECT_TRUE(second().job->data.train->examples.empty());
  EXPECT_FALSE(second().job->loaded());
  EXPECT_EQ(second().record.total_steps, 3);
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kDone) << second().record.reason;
  EXPECT_EQ(second().head.version, 3);
}

TEST_F(EngineQueueTest, DataThatChangedMeanwhileFailsTheJobAlone) {
  rig_.write_data("{\"input_ids\": [7, 8]}\n");
  rig_.submit("third", 2);
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kFailed);
  EXPECT_THAT(second().record.reason, ::testing::HasSubstr("is not what it was when it was submitted"));
  ASSERT_TRUE(rig_.until([&] { return engine().job("third").ended(); }));
  EXPECT_EQ(engine().job("third").record.state, JobState::kDone);
  EXPECT_EQ(stored("second").state, JobState::kFailed);
}

TEST_F(EngineQueueTest, AJobWhoseDataIsAwayIsTriedAgainByTheNextStart) {
  rig_.remove_data();
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kFailed);
  EXPECT_THAT(second().record.reason, ::testing::HasSubstr("rows.jsonl: cannot open"));
  EXPECT_EQ(stored("second").state, JobState::kRunning);
  EXPECT_EQ(stored("second").reason, "");
}

TEST_F(EngineQueueTest, DataThatGrewMeanwhileIsReadNoFurtherThanItWas) {
  rig_.write_data("{\"input_ids\": [1, 2, 3, 4]}\n{\"input_ids\": [5, 6]}\n{\"input_ids\": [7, 8]}\nno row");
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kFailed);
  EXPECT_THAT(second().record.reason, ::testing::HasSubstr("is not what it was when it was submitted"));
}

TEST_F(EngineQueueTest, ACancelWhileTheDataIsReadEndsTheJob) {
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kLoading));
  engine().cancel("second");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kCancelled);
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
}

TEST_F(EngineQueueTest, ACancelWhileACommitOfItIsWrittenEndsAJobThatWaits) {
  const JobRun& first = engine().job("first");
  ASSERT_TRUE(rig_.until([&] { return first.phase == Phase::kStepping && !first.saving; }));
  rig_.store().hold(true);
  engine().pause("second");
  engine().resume("second");  // a change, to be committed
  engine().when_durable({"second"}, [] {});
  ASSERT_TRUE(rig_.until([&] { return second().saving; }));
  engine().cancel("first");  // there is room now
  engine().cancel("second");
  ASSERT_TRUE(rig_.until([&] { return first.ended(); }));
  engine().poll();
  rig_.store().hold(false);
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kCancelled);
  EXPECT_EQ(second().head.version, 0);
  EXPECT_TRUE(rig_.until([&] { return engine().ended(); }));
}

TEST_F(EngineQueueTest, AStopLeavesThoseThatWaitAsTheyAre) {
  engine().request_stop();
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
  EXPECT_EQ(second().phase, Phase::kQueued);
  EXPECT_EQ(second().durable_state, JobState::kQueued);
  EXPECT_FALSE(second().unsaved());
}

using States = std::vector<JobState>;

TEST_F(EngineQueueTest, AJobIsToldAsQueuedThenRunningThenDone) {
  EXPECT_EQ(rig_.told("first"), States{JobState::kQueued});
  EXPECT_EQ(rig_.told("second"), States{JobState::kQueued});
  ASSERT_TRUE(rig_.until([&] { return engine().job("first").head.version > 0; }));
  EXPECT_EQ(rig_.told("first"), (States{JobState::kQueued, JobState::kRunning}));
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
  EXPECT_EQ(rig_.told("second"), (States{JobState::kQueued, JobState::kRunning, JobState::kDone}));
}

TEST_F(EngineQueueTest, AJobThatCannotBeLoadedIsNeverToldAsRunning) {
  rig_.remove_data();
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kEnded));
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
  EXPECT_EQ(rig_.told("second"), (States{JobState::kQueued, JobState::kFailed}));
}

TEST_F(EngineQueueTest, AJobThatIsPausedWhileItIsLoadedIsNotToldAsRunning) {
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kLoading));
  engine().pause("second");
  ASSERT_TRUE(until(Phase::kPaused));
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
  EXPECT_EQ(rig_.told("second"), (States{JobState::kQueued, JobState::kPaused}));
  engine().resume("second");
  ASSERT_TRUE(until(Phase::kEnded));
  EXPECT_EQ(second().record.state, JobState::kDone);
}

TEST_F(EngineQueueTest, AJobThatIsResumedWhileItIsLoadedRunsWhenItIs) {
  engine().cancel("first");
  ASSERT_TRUE(until(Phase::kLoading));
  engine().pause("second");
  engine().resume("second");
  EXPECT_EQ(second().record.state, JobState::kQueued);
  ASSERT_TRUE(until(Phase::kEnded));
  ASSERT_TRUE(rig_.until([&] { return engine().ended(); }));
  EXPECT_EQ(rig_.told("second"), (States{JobState::kQueued, JobState::kRunning, JobState::kDone}));
}

// With a copy each they would need twice the memory that is there, and more.
TEST(EngineQueue, JobsOfOneFileRunBesideOneCopyOfIt) {
  constexpr int kJobs = 64;
  std::string rows;
  for (int i = 0; i < 20'000; ++i) rows += "{\"input_ids\": [1, 2, 3, 4]}\n";
  EngineRig rig{kJobs, rows};
  const auto job = [&](int number) -> const JobRun& {
    return rig.engine().job("sweep" + std::to_string(number));
  };
  rig.submit_many(kJobs + 1, 1'000'000, "sweep");
  const Dataset* const data = job(0).job->data.train.get();
  EXPECT_EQ(data->examples.size(), 20'000u);
  for (int i = 0; i < kJobs; ++i) {
    ASSERT_NE(job(i).phase, Phase::kQueued) << i << ": " << job(i).record.reason;
    ASSERT_EQ(job(i).job->data.train.get(), data) << i;
  }
  const JobRun& waits = job(kJobs);
  EXPECT_EQ(waits.phase, Phase::kQueued);
  EXPECT_TRUE(waits.job->data.train->examples.empty());
  EXPECT_GT(kJobs * data->bytes(), 2 * rig.limit_bytes());

  rig.engine().cancel("sweep0");  // which had read it
  ASSERT_TRUE(rig.until([&] { return waits.job->loaded(); }));
  EXPECT_EQ(waits.job->data.train.get(), data);
}

// As after a restart with less memory.
TEST(EngineQueue, JobsThatCanNeverFitHoldUpNoOther) {
  EngineRig rig{1};
  constexpr int64_t kRankTooHigh = 64;
  for (int i = 0; i < 40; ++i) rig.submit("large" + std::to_string(i), 1, kRankTooHigh);
  rig.submit("small", 1);
  rig.submit("smaller", 1);  // when the one before it has left
  ASSERT_TRUE(rig.until([&] { return rig.engine().job("smaller").ended(); }));
  EXPECT_EQ(rig.engine().job("small").record.state, JobState::kDone);
  EXPECT_EQ(rig.engine().job("smaller").record.state, JobState::kDone);
  EXPECT_EQ(rig.engine().job("large39").phase, Phase::kQueued);
  EXPECT_THAT(rig.engine().job("large39").record.reason,
              ::testing::HasSubstr("large39 does not fit: it needs"));
}

}  // namespace
}  // namespace coppice
