// A run on a device (here the emulated one, whose ops are the CPU's): the user sees the CPU's numbers, and a
// checkpoint goes on wherever it is taken.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "data/loader.h"
#include "kernels/cuda_library.h"
#include "tests/support/counting_accelerator.h"
#include "tests/support/training_run.h"
#include "train/run/engine.h"

namespace jambalaya {
namespace {

using test::difference;
using test::metrics;
using test::tensors_of;
using test::train;

bool ops_are_the_cpus() {
  const char* ops = std::getenv("JAMBALAYA_EMULATED_OPS");
  return ops && std::string(ops) == "cpu";
}

class DeviceRun : public testing::Test {
 protected:
  void SetUp() override {
    if (std::string why; cuda_devices(&why) == 0) GTEST_SKIP() << why;
    data_ = test::make_store(folder_, "data", test::random_texts(60, 90, 1));
  }
  Config config(const std::string& name, const std::string& device) const {
    Config c = test::small_run(folder_.path(name), data_);
    c.run.device = device;
    c.model.act_loss_alpha = 0.01;
    c.model.router_z_loss_coef = 0.001;
    c.data.global_batch = 8;  // two micro-batches
    return c;
  }
  test::TemporaryFolder folder_;
  std::string data_;
};

TEST_F(DeviceRun, trains_as_the_cpu_does) {
  for (Precision precision : {Precision::f32, Precision::bf16}) {
    const bool bf16 = precision == Precision::bf16;
    Config cpu = config(bf16 ? "cpu16" : "cpu", "cpu"), cuda = config(bf16 ? "cuda16" : "cuda", "cuda");
    for (Config* c : {&cpu, &cuda}) {
      c->train.precision = precision;
      // The emulated kernels take seconds a step.
      if (!ops_are_the_cpus()) c->train.steps = 3, c->log.evaluate_tokens = 50, c->log.evaluate_every = 3;
      EXPECT_EQ(train(*c), Exit::ok);
    }
    if (ops_are_the_cpus()) {
      EXPECT_EQ(metrics(cuda.run.folder), metrics(cpu.run.folder));
      EXPECT_EQ(difference(tensors_of(cuda.run.folder, 12), tensors_of(cpu.run.folder, 12)), "");
      continue;
    }
    const std::vector<double> a = test::losses(cpu.run.folder), b = test::losses(cuda.run.folder);
    ASSERT_EQ(a.size(), 3u);
    ASSERT_EQ(b.size(), 3u);
    for (size_t i = 0; i < a.size(); i++)
      EXPECT_NEAR(a[i], b[i], (bf16 ? 2e-2 : 2e-5) * a[i]) << "step " << i + 1;
  }
}

TEST_F(DeviceRun, checkpoint_moves_between_devices_and_back) {
  if (!ops_are_the_cpus()) GTEST_SKIP() << "bit by bit where the ops are the CPU's";
  Config c = config("moved", "cpu");
  for (const auto& [device, steps] : {std::pair("cpu", 4), std::pair("cuda", 8), std::pair("cpu", 12)}) {
    c.run.device = device;
    c.train.steps = steps;
    c.optimizer.schedule = Schedule::constant;
    EXPECT_EQ(train(c), Exit::ok);
  }
  Config whole = config("whole", "cuda");
  whole.optimizer.schedule = Schedule::constant;
  EXPECT_EQ(train(whole), Exit::ok);
  for (int64_t step : {4, 8, 12})
    EXPECT_EQ(difference(tensors_of(c.run.folder, step), tensors_of(whole.run.folder, step)), "") << step;
  EXPECT_NE(difference(tensors_of(c.run.folder, 4), tensors_of(c.run.folder, 8)), "");
}

TEST_F(DeviceRun, resume_on_the_device_is_bit_exact) {
  Config whole = config("whole", "cuda"), cut = config("cut", "cuda");
  for (Config* c : {&whole, &cut}) {
    c->optimizer.schedule = Schedule::constant;
    if (!ops_are_the_cpus()) c->train.steps = 2, c->checkpoint.every = 1, c->data.global_batch = 4;
    c->log.every = 1;
  }
  const int64_t last = whole.train.steps;
  EXPECT_EQ(train(whole), Exit::ok);
  cut.train.steps = last / 2;
  EXPECT_EQ(train(cut), Exit::ok);
  cut.train.steps = last;
  EXPECT_EQ(train(cut), Exit::ok);
  EXPECT_EQ(difference(tensors_of(cut.run.folder, last), tensors_of(whole.run.folder, last)), "");
}

/// Whatever the micro-batches: the host runs ahead until it needs losses and norm (docs/training.md).
TEST_F(DeviceRun, a_step_waits_for_the_device_once) {
  if (!ops_are_the_cpus()) GTEST_SKIP() << "not a matter of the kernels";
  const std::unique_ptr<Accelerator> device = open_cuda(0);
  test::CountingAccelerator counting(*device);
  ThreadPool pool(1);
  Arena scratch("scratch", int64_t(1) << 33, &counting);
  Context ctx{.ops = &counting.ops(),
              .device = Device::cuda,
              .pool = &pool,
              .scratch = &scratch,
              .accelerator = &counting,
              .stream = counting.compute_stream()};
  const Config c = config("waits", "cuda");
  Mesh mesh(make_single_communicator(), Layout{}, {&counting, ctx.stream, counting.new_stream()});
  Engine engine(mesh, ctx, c.model, Precision::bf16, c.optimizer, 1 << 20);
  engine.parameters.initialize(1);
  engine.refresh();
  const Dataset dataset(data_);
  Loader loader(dataset.train(), {.seed = 1, .sequence_length = 32, .rows = 2, .chunk = 32});
  for (size_t micro_batches : {1, 3, 2}) {
    std::vector<HostBatch> batches;
    int64_t counted = 0;
    for (size_t i = 0; i < micro_batches; i++) counted += batches.emplace_back(loader.next()).counted;
    counting.waits = 0;
    const StepLosses losses = engine.gradients(batches, counted, 64);
    EXPECT_TRUE(std::isfinite(losses.loss) && losses.gradient_norm > 0);
    engine.update(1e-3, losses.gradient_norm);
    EXPECT_EQ(counting.waits, 1) << micro_batches << " micro-batches";
  }
  engine.jamba.telemetry = true;
  std::vector<HostBatch> batches{loader.next()};
  counting.waits = 0;
  engine.gradients(batches, 64, 64);
  EXPECT_EQ(engine.jamba.layer_telemetry().size(), 3u);
  EXPECT_EQ(counting.waits, 2) << "one more for the layers' statistics";
}

}  // namespace
}  // namespace jambalaya
