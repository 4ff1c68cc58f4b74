// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

// Package requester writes on behalf of the user of a request: whatever a request makes Tagger write beside the object that
// the request itself carries is authorised and admitted as that user, when the request is made. Webhooks and policies see
// such a write as they see one that the user made directly.
package requester

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Writer authorises and admits writes as the user of the context.
type Writer struct {
	authorizer authorizer.Authorizer
	admission  admission.Interface
	fields     func(schema.GroupVersionKind) FieldManager
	scheme     *runtime.Scheme
	interfaces admission.ObjectInterfaces
}

// FieldManager keeps in an object who manages which of its fields, as managedfields.FieldManager does.
type FieldManager interface {
	UpdateNoErrors(live, updated runtime.Object, manager string) runtime.Object
}

// manager is who manages the fields that are written, where the request does not name one: whoever applies other values later is
// told of a conflict.
const manager = "tagger-apiserver"

// NewWriter returns a Writer; all arguments are required. Fields returns the FieldManager of a kind that is written.
func NewWriter(authz authorizer.Authorizer, admit admission.Interface, fields func(schema.GroupVersionKind) FieldManager,
	scheme *runtime.Scheme) *Writer {
	return &Writer{authorizer: authz, admission: admit, fields: fields, scheme: scheme, interfaces: admission.NewObjectInterfacesFromScheme(scheme)}
}

// Target says what is written.
type Target struct {
	Resource  schema.GroupVersionResource
	Kind      schema.GroupVersionKind
	Namespace string
	Name      string
}

// context returns a context in which the request is about the target: storage and admission look there for what is written, and
// the request itself names something else.
func (t Target) context(ctx context.Context, verb string) context.Context {
	return request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: verb, APIPrefix: "apis", APIGroup: t.Resource.Group, APIVersion: t.Resource.Version,
		Resource: t.Resource.Resource, Namespace: t.Namespace, Name: t.Name,
	})
}

// Authorize returns nil when the user of the context may do verb on the target, and a Forbidden error that says why when not.
func (w *Writer) Authorize(ctx context.Context, verb string, target Target, why string) error {
	user, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("the request has no user"))
	}
	decision, reason, err := w.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: user, Verb: verb, Namespace: target.Namespace, Name: target.Name, ResourceRequest: true,
		APIGroup: target.Resource.Group, APIVersion: target.Resource.Version, Resource: target.Resource.Resource,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("authorising %s %s: %w", verb, target.Resource.Resource, err))
	}
	cause := fmt.Errorf("%s, which needs the right to %s %s", why, verb, target.Resource.Resource)
	if reason != "" {
		cause = fmt.Errorf("%w: %s", cause, reason)
	}
	return apierrors.NewForbidden(target.Resource.GroupResource(), target.Name, cause)
}

// Create admits obj as the user of the context and creates it in the store. It does not authorise: which right the user needs
// is the caller's to know.
func (w *Writer) Create(ctx context.Context, store rest.Creater, obj runtime.Object, target Target,
	options *metav1.CreateOptions) (runtime.Object, error) {
	ctx = target.context(ctx, "create")
	obj, validate, err := w.admitNew(ctx, obj, target, options)
	if err != nil {
		return nil, err
	}
	return store.Create(ctx, obj, validate, options)
}

// Admit returns obj as admission would have it created by the user of the context, or why it might not be. Nothing is created: obj
// stands for something else that the request does.
func (w *Writer) Admit(ctx context.Context, obj runtime.Object, target Target) (runtime.Object, error) {
	ctx = target.context(ctx, "create")
	obj, validate, err := w.admitNew(ctx, obj, target, &metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return nil, err
	}
	return obj, validate(ctx, obj)
}

// admitNew has what is about to be created changed by admission, and returns what has admission validate the outcome.
func (w *Writer) admitNew(ctx context.Context, obj runtime.Object, target Target, options *metav1.CreateOptions) (
	runtime.Object, rest.ValidateObjectFunc, error) {
	live, err := w.scheme.New(target.Kind)
	if err != nil {
		return nil, nil, err
	}
	obj = w.fields(target.Kind).UpdateNoErrors(live, obj, cmp.Or(options.FieldManager, manager))
	attributes := func(obj runtime.Object) admission.Attributes {
		return w.attributes(ctx, obj, nil, target, admission.Create, options, dryRun(options.DryRun))
	}
	if admit, ok := w.admission.(admission.MutationInterface); ok && w.admission.Handles(admission.Create) {
		if err := admit.Admit(ctx, attributes(obj), w.interfaces); err != nil {
			return nil, nil, err
		}
	}
	return obj, func(ctx context.Context, obj runtime.Object) error { return w.validate(ctx, attributes(obj)) }, nil
}

// Update applies change to the stored object, admits the outcome as the user of the context and stores it. A conflict with
// another writer is tried again on what that one wrote. An error of change ends it, and is returned as it is.
func (w *Writer) Update(ctx context.Context, store rest.Updater, target Target, change func(runtime.Object) error,
	dryRunOption []string) (runtime.Object, error) {
	ctx = target.context(ctx, "update")
	options := &metav1.UpdateOptions{DryRun: dryRunOption}
	info := rest.DefaultUpdatedObjectInfo(nil, func(ctx context.Context, _, old runtime.Object) (runtime.Object, error) {
		if accessor, err := meta.Accessor(old); err != nil || accessor.GetUID() == "" {
			return nil, apierrors.NewNotFound(target.Resource.GroupResource(), target.Name)
		}
		obj := old.DeepCopyObject()
		if err := change(obj); err != nil {
			return nil, err
		}
		obj = w.fields(target.Kind).UpdateNoErrors(old, obj, manager)
		if admit, ok := w.admission.(admission.MutationInterface); ok && w.admission.Handles(admission.Update) {
			attributes := w.attributes(ctx, obj, old, target, admission.Update, options, dryRun(dryRunOption))
			if err := admit.Admit(ctx, attributes, w.interfaces); err != nil {
				return nil, err
			}
		}
		return obj, nil
	})
	validate := func(ctx context.Context, obj, old runtime.Object) error {
		return w.validate(ctx, w.attributes(ctx, obj, old, target, admission.Update, options, dryRun(dryRunOption)))
	}
	obj, _, err := store.Update(ctx, target.Name, info, rest.ValidateAllObjectFunc, validate, false, options)
	return obj, err
}

func (w *Writer) validate(ctx context.Context, attributes admission.Attributes) error {
	if validator, ok := w.admission.(admission.ValidationInterface); ok && w.admission.Handles(attributes.GetOperation()) {
		return validator.Validate(ctx, attributes, w.interfaces)
	}
	return nil
}

func (w *Writer) attributes(ctx context.Context, obj, old runtime.Object, target Target, operation admission.Operation,
	options runtime.Object, dryRun bool) admission.Attributes {
	user, _ := request.UserFrom(ctx)
	return admission.NewAttributesRecord(obj, old, target.Kind, target.Namespace, target.Name, target.Resource, "", operation,
		options, dryRun, user)
}

func dryRun(option []string) bool {
	return len(option) > 0
}
