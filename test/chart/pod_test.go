// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"tagger.dev/tagger/cmd/tagger-apiserver/app"
)

// settings are those that every Pod is looked at with.
var settings = map[string]string{
	"default":    "",
	"several":    several,
	"everything": everything,
	"alone":      alone,
	"external":   `{etcd: {mode: external, external: {servers: ["https://a.example.com:2379", "https://b.example.com:2379"], secret: etcd}}}`,
}

// TestPodSecurity evaluates all Pods as the admission of a namespace does that enforces the standard restricted.
func TestPodSecurity(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
		if err != nil {
			t.Fatal(err)
		}
		level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
		for name, values := range settings {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pods := helm.render(t, values).pods(t)
				if len(pods) == 0 {
					t.Fatal("there is no Pod")
				}
				for name, pod := range pods {
					if result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
						t.Errorf("%s: %s", name, result.ForbiddenDetail())
					}
					for _, container := range pod.Spec.Containers {
						if readOnly := container.SecurityContext.ReadOnlyRootFilesystem; readOnly == nil || !*readOnly {
							t.Errorf("%s may write to its root file system", name)
						}
					}
				}
			})
		}
	})
}

// TestVolumes checks that what is mounted is there.
func TestVolumes(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		for name, values := range settings {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				all := helm.render(t, values)
				for name, pod := range all.pods(t) {
					has, mounted := sets.New[string](), sets.New[string]()
					for _, volume := range pod.Spec.Volumes {
						has.Insert(volume.Name)
					}
					if set, ok := all[name].(*appsv1.StatefulSet); ok {
						for _, claim := range set.Spec.VolumeClaimTemplates {
							has.Insert(claim.Name)
						}
					}
					for _, container := range pod.Spec.Containers {
						for _, mount := range container.VolumeMounts {
							mounted.Insert(mount.Name)
						}
					}
					if diff := cmp.Diff(sets.List(mounted), sets.List(has)); diff != "" {
						t.Errorf("%s: what is mounted is not what is there (-mounted +there):\n%s", name, diff)
					}
				}
			})
		}
	})
}

// TestFlags has the server and etcd read the flags that the chart gives them.
func TestFlags(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		for name, values := range settings {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				all := helm.render(t, values)
				for name, pod := range all.pods(t) {
					args := pod.Spec.Containers[0].Args
					var err error
					switch name {
					case server, deployment:
						_, err = all.serverOptions(t, name)
					case "StatefulSet/tagger-etcd":
						flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
						embed.NewConfig().AddFlags(flags)
						flags.String("initial-cluster-state", "", "") // which embed leaves to the command
						err = flags.Parse(args)
					}
					if err != nil {
						t.Errorf("%s %q: %v", name, args, err)
					}
				}
			})
		}
	})
}

// TestDefaults compares the defaults of values.yaml with those of the server's flags.
func TestDefaults(t *testing.T) {
	each(t, func(t *testing.T, helm helm) {
		own := app.NewOptions()
		own.Complete(func(string) bool { return false })
		own.DataDir, own.BindAddress = "/data/tagger", own.BindAddress.To4()
		given, err := helm.render(t, "").serverOptions(t, server)
		if err != nil {
			t.Fatal(err)
		}
		values := func(o *app.Options) map[string]string {
			values := map[string]string{}
			sections := o.Flags()
			for _, section := range []string{"tagger", "cluster", "imports", "sources", "storage", "logs"} {
				sections.FlagSet(section).VisitAll(func(f *pflag.Flag) { values[f.Name] = f.Value.String() })
			}
			return values
		}
		if diff := cmp.Diff(values(own), values(given)); diff != "" {
			t.Errorf("not the defaults of the server (-server +chart):\n%s", diff)
		}
	})
}

// serverOptions reads the flags as the server does that a workload starts, with the certificates of sources that are mounted there.
func (o objects) serverOptions(t *testing.T, workload string) (*app.Options, error) {
	t.Helper()
	pod := o.pods(t)[workload]
	args := slices.Clone(pod.Spec.Containers[0].Args)
	for i, arg := range args {
		if flag, _, _ := strings.Cut(arg, "="); flag == "--registry-certs-dir" {
			args[i] = flag + "=" + o.mounted(t, pod, "source-certificates")
		}
	}
	options := app.NewOptions()
	flags := pflag.NewFlagSet("tagger-apiserver", pflag.ContinueOnError)
	for _, section := range options.Flags().FlagSets {
		flags.AddFlagSet(section)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	options.Complete(flags.Changed)
	return options, errors.Join(options.Validate()...)
}

// mounted returns a directory with what a volume of a Pod has of a ConfigMap.
func (o objects) mounted(t *testing.T, pod corev1.PodTemplateSpec, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, volume := range pod.Spec.Volumes {
		if volume.Name != name {
			continue
		}
		data := get[*corev1.ConfigMap](t, o, "ConfigMap/"+volume.ConfigMap.Name).Data
		for _, item := range volume.ConfigMap.Items {
			file := filepath.Join(dir, item.Path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(data[item.Key]), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}
