"""Types of batch/v1. The notation is described in ``k3sd.apimachinery.schema``."""

TYPES = """\
CronJob kind # Makes Jobs on a schedule.
  metadata 1 ObjectMeta
  spec! 2 CronJobSpec omit
  status 3 CronJobStatus
CronJobList kind
  metadata 1 ListMeta
  items! 2 []CronJob
CronJobSpec
  schedule! 1 string # When, in cron format.
  startingDeadlineSeconds 2 *int64 # How late a run may start.
  concurrencyPolicy 3 string # When the last job still runs: Allow, Forbid or Replace.
  suspend 4 *bool # No further jobs are made.
  jobTemplate! 5 JobTemplateSpec # What the jobs look like.
  successfulJobsHistoryLimit 6 *int32 # How many finished jobs are kept.
  failedJobsHistoryLimit 7 *int32 # How many failed jobs are kept.
  timeZone 8 *string # Time zone of the schedule.
CronJobStatus
  active 1 []core.ObjectReference atomic
  lastScheduleTime 4 *Time
  lastSuccessfulTime 5 *Time
Job kind # Runs pods until enough have succeeded.
  metadata 1 ObjectMeta
  spec 2 JobSpec
  status 3 JobStatus
JobCondition
  type! 1 string
  status! 2 string
  lastProbeTime 3 Time
  lastTransitionTime 4 Time
  reason 5 string
  message 6 string
JobList kind
  metadata 1 ListMeta
  items! 2 []Job
JobSpec
  parallelism 1 *int32 # How many pods run at the same time.
  completions 2 *int32 # How many pods must succeed.
  activeDeadlineSeconds 3 *int64 # Seconds after which the job is ended.
  selector 4 *LabelSelector # Labels of its pods; chosen by the system.
  manualSelector 5 *bool # Whether you choose the selector yourself.
  template! 6 core.PodTemplateSpec # What the pods look like.
  backoffLimit 7 *int32 # Failed pods after which the job fails. 6 by default.
  ttlSecondsAfterFinished 8 *int32 # Seconds after which a finished job is deleted.
  completionMode 9 *string # NonIndexed, or Indexed: every pod has a number.
  suspend 10 *bool # No pods are made, and running ones are removed.
  podFailurePolicy 11 *PodFailurePolicy # What a failed pod means, by exit code or condition.
  backoffLimitPerIndex 12 *int32 # How many failures each index may have.
  maxFailedIndexes 13 *int32 # How many indexes may fail.
  podReplacementPolicy 14 *string # When a pod is replaced: TerminatingOrFailed or Failed.
  managedBy 15 *string
  successPolicy 16 *SuccessPolicy # When the job counts as done although indexes are left.
JobStatus
  conditions 1 []JobCondition atomic merge=type # Whether it is Complete, Failed or Suspended, and why.
  startTime 2 *Time # When it began.
  completionTime 3 *Time # When it was done.
  active 4 int32 # How many pods run or wait to.
  succeeded 5 int32 # How many pods succeeded.
  failed 6 int32 # How many pods failed.
  completedIndexes 7 string
  uncountedTerminatedPods 8 *UncountedTerminatedPods
  ready 9 *int32 # How many pods are ready.
  failedIndexes 10 *string
  terminating 11 *int32
JobTemplateSpec
  metadata 1 ObjectMeta
  spec 2 JobSpec
PodFailurePolicy
  rules! 1 []PodFailurePolicyRule atomic
PodFailurePolicyOnExitCodesRequirement
  containerName 1 *string
  operator! 2 string
  values! 3 []int32 set
PodFailurePolicyOnPodConditionsPattern
  type! 1 string
  status 2 string always
PodFailurePolicyRule
  action! 1 string
  onExitCodes 2 *PodFailurePolicyOnExitCodesRequirement
  onPodConditions 3 []PodFailurePolicyOnPodConditionsPattern atomic
SuccessPolicy
  rules! 1 []SuccessPolicyRule atomic
SuccessPolicyRule
  succeededIndexes 1 *string
  succeededCount 2 *int32
UncountedTerminatedPods
  succeeded 1 []string set
  failed 2 []string set
"""
