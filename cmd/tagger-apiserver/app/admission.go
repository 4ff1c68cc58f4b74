// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/discovery"
	"k8s.io/klog/v2"
)

// newAdmissionOptions returns the defaults of every API server, and that objects are counted for ResourceQuotas: kube-apiserver
// counts only its own.
func newAdmissionOptions() *options.AdmissionOptions {
	o := options.NewAdmissionOptions()
	resourcequota.Register(o.Plugins)
	o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, resourcequota.PluginName)
	return o
}

// policyPlugins are those that an older Kubernetes has no objects for, by the resource that they wait for.
var policyPlugins = map[string]string{
	"mutatingadmissionpolicies":   mutatingpolicy.PluginName,   // Kubernetes 1.36
	"validatingadmissionpolicies": validatingpolicy.PluginName, // Kubernetes 1.30
}

// disableUnserved turns those plugins off that would wait for ever for what this kube-apiserver does not serve.
func disableUnserved(o *options.AdmissionOptions, client discovery.DiscoveryInterface) error {
	served, err := client.ServerResourcesForGroupVersion(admissionregistrationv1.SchemeGroupVersion.String())
	if err != nil {
		return fmt.Errorf("asking kube-apiserver which policies it has: %w", err)
	}
	for resource, plugin := range policyPlugins {
		if slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == resource }) ||
			slices.Contains(o.DisablePlugins, plugin) || slices.Contains(o.EnablePlugins, plugin) {
			continue
		}
		klog.Background().Info("This Kubernetes has no such policies: the admission plugin is off", "plugin", plugin, "resource", resource)
		o.DisablePlugins = append(o.DisablePlugins, plugin)
	}
	return nil
}

// quotaInitializer configures the ResourceQuota plugin: it counts objects, which it does of any kind that nobody evaluates.
type quotaInitializer struct{}

func (quotaInitializer) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(quota.NewConfiguration(nil, nil))
	}
}
