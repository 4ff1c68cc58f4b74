// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/utils/ptr"

	"tagger.dev/tagger/pkg/apis/tagger"
	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
)

// generation is the newest folder of testdata/stored. Each holds an object of every stored kind as some version of Tagger left
// it in etcd, byte for byte, with every field set that there was. What is stored once is never changed: a new field needs a
// new folder, and its expectation here, beside the old ones.
const generation = "5"

// stored are the objects of each folder, by file.
func stored() map[string]runtime.Object {
	at := func(second int) metav1.Time { return metav1.Date(2022, 2, 6, 19, 6, second, 0, time.UTC) }
	microAt := func(second int) metav1.MicroTime {
		return metav1.NewMicroTime(time.Date(2022, 2, 6, 19, 6, second, 123456000, time.UTC))
	}
	object := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Namespace: "team-a", UID: "0e7cf8b6-32cf-4d29-8e8c-3c7a5c3b5a10", Generation: 2, CreationTimestamp: at(0),
			Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"example.com/note": "kept"},
			Finalizers: []string{"example.com/hold"},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "ci", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "tagger.dev/v1beta1", Time: ptr.To(at(1)),
				FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:from":{}}}`),
			}},
		}
	}
	owned := object("operator-0")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "tagger.dev/v1beta1", Kind: "Image", Name: "operator",
		UID: "d4a0a3b0-6b3d-4b52-9a0c-0b6a9f6f2f11", Controller: ptr.To(true)}}
	digest := "@sha256:" + strings.Repeat("0123456789abcdef", 4)
	reference := func(second int) tagger.HashReference {
		return tagger.HashReference{
			From: "quay.io/tagger/operator:latest", ImageReference: "mirror.example:5000/team-a/operator" + digest,
			SourceReference: "quay.io/tagger/operator" + digest, ImportedAt: at(second), ResolvedAt: microAt(second),
			ImportUID: "5f0d8c1e-8f0a-4f6f-9d0e-6d9a8f1c2b12", MediaType: "application/vnd.oci.image.index.v1+json", Size: 123456,
			Platforms: []string{"linux/amd64", "linux/arm/v7"}, ReferrersCheckedAt: ptr.To(at(second)),
		}
	}
	conditions := []metav1.Condition{{Type: "Imported", Status: metav1.ConditionTrue, ObservedGeneration: 2, LastTransitionTime: at(5),
		Reason: "Imported", Message: "quay.io/tagger/operator:latest means sha256:0123"}}
	all := map[string]runtime.Object{
		"1/image.json": &tagger.Image{
			ObjectMeta: object("operator"),
			Spec: tagger.ImageSpec{From: "quay.io/tagger/operator:latest", Mirror: true, Insecure: true,
				RefreshInterval: &metav1.Duration{Duration: 15 * time.Minute}, Suspend: true, HistoryLimit: ptr.To[int32](7)},
			Status: tagger.ImageStatus{HashReferences: []tagger.HashReference{reference(4), reference(3)},
				RecordedImports: []tagger.HashReference{reference(4)}, Conditions: conditions},
		},
		"1/imageimport.json": &tagger.ImageImport{
			ObjectMeta: owned,
			Spec: tagger.ImageImportSpec{TargetImage: "operator", From: "quay.io/tagger/operator:latest", Mirror: ptr.To(true),
				Insecure: ptr.To(true), TTLSecondsAfterFinished: ptr.To[int32](60)},
			Status: tagger.ImageImportStatus{
				HashReference:  ptr.To(reference(4)),
				ImportAttempts: []tagger.ImportAttempt{{When: at(3), Reason: "quay.io did not answer"}, {When: at(4), Succeed: true, Reason: "-"}},
				Conditions:     conditions,
				Progress:       &tagger.ImportProgress{Blobs: 1, BlobsTotal: 2, Bytes: 3, BytesTotal: 4},
				Claim:          &tagger.ImportClaim{Holder: "tagger-0", RenewTime: ptr.To(microAt(4)), Transitions: 1},
				StartTime:      ptr.To(at(2)), NextAttemptTime: ptr.To(at(3)), CompletionTime: ptr.To(at(5)),
			},
		},
	}
	// The second says of an entry whether it was rolled back to, and of an import when it was asked for.
	image := all["1/image.json"].DeepCopyObject().(*tagger.Image)
	for _, refs := range [][]tagger.HashReference{image.Status.HashReferences, image.Status.RecordedImports} {
		for i := range refs {
			refs[i].RolledBack = true
		}
	}
	imp := all["1/imageimport.json"].DeepCopyObject().(*tagger.ImageImport)
	imp.Status.HashReference.RolledBack = true
	imp.Status.RequestedAt = microAt(1)
	all["2/image.json"], all["2/imageimport.json"] = image, imp
	// The third says of an Image when its import was last tried.
	image = image.DeepCopy()
	image.Status.LastAttemptTime = ptr.To(at(4))
	all["3/image.json"], all["3/imageimport.json"] = image, imp
	// The fourth has another kind.
	all["4/image.json"], all["4/imageimport.json"] = image, imp
	release := &tagger.MirrorRelease{
		ObjectMeta: object("operator-0123456789abcdef0123456789abcdef"),
		Spec: tagger.MirrorReleaseSpec{
			Namespace: "team-a", Image: "operator", ImageReferences: []string{reference(3).ImageReference}, RequestedAt: microAt(5), DueTime: at(6),
		},
		Status: tagger.MirrorReleaseStatus{Failures: 2, Message: "the mirror did not answer", NextAttemptTime: ptr.To(at(7))},
	}
	release.Namespace = ""
	all["4/mirrorrelease.json"] = release
	// The fifth has another one, which is never served.
	all["5/image.json"], all["5/imageimport.json"], all["5/mirrorrelease.json"] = image, imp, release
	all["5/registrykey.json"] = &tagger.RegistryKey{
		ObjectMeta: metav1.ObjectMeta{Name: "2022-02-06", UID: "0e7cf8b6-32cf-4d29-8e8c-3c7a5c3b5a10", CreationTimestamp: at(0)},
		Spec: tagger.RegistryKeySpec{PrivateKey: []byte("not a key"),
			SignsFrom:  metav1.Date(2022, 2, 6, 0, 0, 0, 0, time.UTC),
			SignsUntil: metav1.Date(2022, 2, 7, 0, 0, 0, 0, time.UTC)},
	}
	return all
}

// storage returns how the server writes to etcd and reads from there.
func storage() runtime.Codec {
	scheme := runtime.NewScheme()
	Install(scheme)
	return serializer.NewCodecFactory(scheme).LegacyCodec(v1beta1.SchemeGroupVersion)
}

// TestStored reads what every version of Tagger has stored.
func TestStored(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stored/*/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(stored()) {
		t.Errorf("%d files are stored, and %d expected: %v", len(files), len(stored()), files)
	}
	for name, want := range stored() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join("testdata/stored", name))
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := storage().Decode(data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(name, generation+"/") {
				return
			}
			// The newest generation is what is written today, and leaves no field out.
			var written bytes.Buffer
			if err := storage().Encode(want, &written); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(data), written.String()); diff != "" {
				t.Errorf("encoded (-stored +written):\n%s", diff)
			}
			object := reflect.ValueOf(want).Elem()
			for _, field := range []string{"Spec", "Status"} {
				if !object.FieldByName(field).IsValid() { // not every kind has a status
					continue
				}
				for _, path := range unset(object.FieldByName(field), field) {
					t.Errorf("%s is not set: what is stored of it is not tested", path)
				}
			}
		})
	}
}

// unset returns the fields of our own types that have their zero value. In lists one element with a field set is enough.
func unset(value reflect.Value, path string) []string {
	switch {
	case value.Kind() == reflect.Pointer && !value.IsNil():
		return unset(value.Elem(), path)
	case value.Kind() == reflect.Slice && value.Len() > 0 && value.Type().Elem().Kind() == reflect.Struct:
		return unset(value.Index(value.Len()-1), path+"[]")
	case value.Kind() == reflect.Struct && strings.HasPrefix(value.Type().PkgPath(), "tagger.dev/"):
		var paths []string
		for i := range value.NumField() {
			paths = append(paths, unset(value.Field(i), path+"."+value.Type().Field(i).Name)...)
		}
		return paths
	case value.IsZero():
		return []string{path}
	}
	return nil
}

// TestStoredByNewer reads what a newer Tagger has stored: fields that this one does not know are dropped, and nothing else.
func TestStoredByNewer(t *testing.T) {
	t.Parallel()
	for name, want := range stored() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join("testdata/stored", name))
			if err != nil {
				t.Fatal(err)
			}
			sections := []string{`"spec":{`, `"status":{`}
			if !reflect.ValueOf(want).Elem().FieldByName("Status").IsValid() {
				sections = sections[:1]
			}
			for _, section := range sections {
				data = bytes.Replace(data, []byte(section), fmt.Appendf(nil, `%s"fieldOfTheFuture":{"a":[1]},`, section), 1)
			}
			if bytes.Count(data, []byte("fieldOfTheFuture")) != len(sections) {
				t.Fatalf("spec and status not found in %s", data)
			}
			got, _, err := storage().Decode(data, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}
